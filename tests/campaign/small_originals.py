"""``resjax.data.prepare`` on small files that stand for the originals of MNIST: ``source`` in this folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))

from data_helpers import facts_of, write_mnist

from resjax.data import prepare

if __name__ == "__main__":
    source = Path("source")
    if not source.exists():
        write_mnist(source, train=40, test=20)
    facts = facts_of(source)
    prepare.registered = lambda builder, name: facts
    prepare.main(sys.argv[1:])
