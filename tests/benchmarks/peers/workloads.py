"""The workloads of the benchmark."""

from msgspec import Struct


class Workload(Struct, frozen=True, kw_only=True):
    """Pictures to download, from a list or by a crawl of a site."""

    name: str
    title: str
    number: int
    #: Bytes of a picture, on average.
    size: int = 15_000
    #: The gallery to crawl; "": the pictures come from a list.
    gallery: str = ""
    #: Requests in flight, at the port with latency; None: as many as suit the program, at the fast port.
    in_flight: int | None = None

    @property
    def album(self) -> str:
        """The name of the folder with its pictures."""
        return "small" if self.size < 100_000 else "large"


WORKLOADS = [
    Workload(name="small", title="5,000 × 15 KB", number=5_000),
    Workload(name="large", title="1,000 × 1 MB", number=1_000, size=1_000_000),
    Workload(name="latency64", title="50 ms, 64 in flight", number=5_000, in_flight=64),
    Workload(name="latency256", title="50 ms, 256 in flight", number=5_000, in_flight=256),
    Workload(name="gallery", title="gallery", number=5_000, gallery="gallery"),
    Workload(name="named", title="other gallery", number=5_000, gallery="named"),
    Workload(name="twenty", title="20 pictures", number=20),
]
