"""The tables of a crawl's database.

Columns that are read and changed often are in narrow rows, a hundred to a page. Data that is only passed on (URLs,
texts, manifest rows) is in separate tables. So a change dirties few pages, and a start scans a million requests in a
second.

References are declared and not enforced: a transaction writes its rows in groups, and only the consistency check, with
``PRAGMA foreign_key_check``, looks at them.
"""

#: Version of the tables.
SCHEMA = 5
#: Application id of our files ("imgc"), so that another program's database is not taken for a crawl.
APPLICATION = 0x696D6763
#: Name of the ``meta`` row with the paths of files to delete, which no record names since the last change of records.
LEFT = "left"

PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=5000",
    "cache_size=-32768",  # KiB
    "wal_autocheckpoint=8000",  # pages, 32 MB: a page that changes many times is copied into the file once
    "journal_size_limit=67108864",
)
TABLES = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE origin (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, rules BLOB,"
    " rules_until REAL NOT NULL DEFAULT 0)",
    "CREATE TABLE host (name TEXT PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID",
    # hash: of kind and URL; record: number of its manifest row, 0 if it has none
    "CREATE TABLE request (id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, kind INTEGER NOT NULL,"
    " origin INTEGER NOT NULL REFERENCES origin, priority INTEGER NOT NULL, seed INTEGER NOT NULL,"
    " state INTEGER NOT NULL, attempts INTEGER NOT NULL, not_before REAL NOT NULL, reason TEXT NOT NULL,"
    " record INTEGER NOT NULL)",
    "CREATE TABLE request_data (id INTEGER PRIMARY KEY REFERENCES request, data BLOB NOT NULL)",
    "CREATE TABLE request_index (key INTEGER PRIMARY KEY, row INTEGER NOT NULL REFERENCES request)",
    "CREATE INDEX seed ON request (origin) WHERE seed",
    # copy: hash of the SHA-256 if this is the first copy of its bytes; twin: the same hash if this is a later copy,
    # unless it has no file of its own and uses the file of a near-duplicate
    "CREATE TABLE record (seq INTEGER PRIMARY KEY AUTOINCREMENT, request INTEGER NOT NULL, status TEXT NOT NULL,"
    " bytes INTEGER NOT NULL, store TEXT NOT NULL, copy INTEGER, twin INTEGER, change TEXT NOT NULL)",
    "CREATE INDEX twin ON record (twin) WHERE twin NOTNULL",
    "CREATE TABLE record_data (seq INTEGER PRIMARY KEY REFERENCES record, data BLOB NOT NULL)",
    "CREATE TABLE copy_index (key INTEGER PRIMARY KEY, row INTEGER NOT NULL REFERENCES record)",
    # visit: validators of a page for a conditional request; past: files that a record named before a refresh
    "CREATE TABLE visit (request INTEGER PRIMARY KEY REFERENCES request, data BLOB NOT NULL)",
    "CREATE TABLE past (path TEXT NOT NULL, store TEXT NOT NULL, PRIMARY KEY (path, store)) WITHOUT ROWID",
    # pin: hash of a URL, and the SHA-256 that its picture must have
    "CREATE TABLE pin (url INTEGER PRIMARY KEY, sha256 BLOB NOT NULL)",
    # list_row: a row of a list about an image, if it is too long for the request itself (own) or repeats a known URL;
    # until: bytes of the rows of the same request up to and including this one
    "CREATE TABLE list_row (id INTEGER PRIMARY KEY, request INTEGER NOT NULL REFERENCES request,"
    " digest INTEGER NOT NULL, own INTEGER NOT NULL, until INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE UNIQUE INDEX list_row_digest ON list_row (request, digest)",
    "CREATE INDEX list_row_request ON list_row (request)",
    "CREATE TABLE store (id TEXT PRIMARY KEY, worker TEXT NOT NULL) WITHOUT ROWID",
)
