"""What reading one foreign file may take: each object is counted before it is made, whoever wrote the file."""

from .errors import UnusableError

# SD1.5's whole network in a pickle takes 140,000 operations and 21 MB of these, whatever its width.
BASE = 64 << 20  # bytes, besides as many as the file has
OPERATIONS = 10_000_000
ITEM = 96  # bytes: what an operation leaves behind at most, an object and the places that refer to it


class Budget:
    """Counts down, and raises UnusableError at the end."""

    def __init__(self, size: int):
        """size: bytes of the file."""
        self._bytes = BASE + size
        self._operations = OPERATIONS

    def take(self, count: int) -> None:
        """Before `count` bytes of memory are taken."""
        self._bytes -= count
        if self._bytes < 0:
            raise UnusableError("it asks for far more memory than a file of its size needs")

    def step(self) -> None:
        """Before one operation, which may make one object."""
        self._operations -= 1
        if self._operations < 0:
            raise UnusableError(f"it takes more than {OPERATIONS:,} steps to read, as no network does")
        self.take(ITEM)
