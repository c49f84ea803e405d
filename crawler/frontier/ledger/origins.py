"""The tables of origins, with their robots rules, and of hosts, with their health."""

from collections.abc import Collection, Iterator

import msgspec

from crawler.frontier.ledger.database import Database
from crawler.model import RobotsRules


class OriginTable:
    """Origins and hosts of a crawl. Methods that write must be called within `Ledger.transaction`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        #: Names of origins by number, and numbers by name; names that the current transaction has added.
        self.names: dict[int, str] = dict(database.rows("SELECT id, name FROM origin"))
        self._numbers = {name: number for number, name in self.names.items()}
        self._added: list[str] = []

    def number(self, name: str) -> int:
        """Return the number of an origin; add the origin if it is new."""
        number = self._numbers.get(name)
        if number is None:
            number = self._db.connection.execute("INSERT INTO origin (name) VALUES (?)", (name,)).lastrowid or 0
            self._numbers[name], self.names[number] = number, name
            self._added.append(name)
        return number

    def find(self, name: str) -> int:
        """Return the number of an origin, or -1 if it is unknown."""
        return self._numbers.get(name, -1)

    def committed(self) -> None:
        """Keep the origins that the transaction has added."""
        self._added.clear()

    def rolled_back(self) -> None:
        """Forget the origins that the transaction has added."""
        for name in self._added:
            del self.names[self._numbers.pop(name)]
        self._added.clear()

    def save_rules(self, name: str, rules: RobotsRules, until: float) -> None:
        """Keep the rules of an origin until that time, in seconds since the epoch."""
        query = "UPDATE origin SET rules = ?, rules_until = ? WHERE id = ?"
        self._db.connection.execute(query, (msgspec.json.encode(rules), until, self.number(name)))

    def rules(self) -> Iterator[tuple[str, RobotsRules, float]]:
        """Yield origin, rules and their end (seconds since the epoch) for each origin with rules."""
        with self._db.errors():
            query = "SELECT name, rules, rules_until FROM origin WHERE rules NOTNULL"
            for name, data, until in self._db.connection.execute(query):
                yield name, _RULES.decode(data), until

    def rules_of(self, names: Collection[str]) -> dict[str, RobotsRules]:
        """Return the rules of these origins, for those that have some."""
        numbers = [self._numbers[name] for name in names if name in self._numbers]
        return {name: _RULES.decode(data) for name, data in self._db.rows_of(_SELECT_RULES, numbers)}

    def save_health(self, host: str, health: bytes) -> None:
        """Keep the health of a host, as JSON with times in seconds since the epoch."""
        self._db.later("INSERT OR REPLACE INTO host VALUES (?,?)", host, health)

    def health(self) -> list[tuple[str, bytes]]:
        """Return each host with its health as JSON."""
        return self._db.rows("SELECT name, state FROM host")


_SELECT_RULES = "SELECT name, rules FROM origin WHERE rules NOTNULL AND id IN (SELECT value FROM json_each(?))"
_RULES = msgspec.json.Decoder(RobotsRules)
