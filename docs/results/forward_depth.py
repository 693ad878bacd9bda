"""How deep the forward pass is: ``python docs/results/forward_depth.py NAME WORKDIR IMAGES``, once a network.

Measures ``resjax.studies.paths.forward_depth`` on at most IMAGES test images, also at initialization. The
units of the greedy cut are chosen on 128 training images. The three networks:

    python docs/results/forward_depth.py "ResNet-56, digits" runs/demo/residual 397
    python docs/results/forward_depth.py "ResNet-56, CIFAR-10" runs/resnet56 300
    python docs/results/forward_depth.py "ResNet-20, CIFAR-10" runs/resnet20 500

runs/demo is made by ``make demo``; the others are imported by ``python -m resjax.pretrained``.
Adds the network to forward_depth.json and draws forward_depth.png beside this file.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from resjax.analysis import load_run, plot
from resjax.report import compare
from resjax.studies.options import Options
from resjax.studies.paths.forward_depth import STUDY, ForwardDepth
from resjax.workdir.atomic import write
from resjax.workdir.provenance import provenance

HERE = Path(__file__).parent
ORDER = ("ResNet-56, digits", "ResNet-56, CIFAR-10", "ResNet-20, CIFAR-10")


def main(name: str, workdir: str, images: str) -> None:
    start, path = time.time(), HERE / "forward_depth.json"
    result = STUDY.run(load_run(workdir), Options(max_examples=int(images)))
    made = {k: v for k, v in provenance().items() if k != "command"}
    command = f'python docs/results/forward_depth.py "{name}" {Path(workdir).name} {images}'
    record = {"made": made, "command": command, "seconds": round(time.time() - start)}
    # Read again only now: another network may have been added meanwhile.
    known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    known[name] = record | {"result": result.to_json()}
    known = {label: known[label] for label in sorted(known, key=ORDER.index)}
    write(path, json.dumps(known, ensure_ascii=False) + "\n")
    results = {label: ForwardDepth.from_json(own["result"]) for label, own in known.items()}
    finding = compare.finding(STUDY, results)
    print(finding.headline, *finding.points, sep="\n")
    plot(results).savefig(HERE / "forward_depth.png", dpi=130)


if __name__ == "__main__":
    main(*sys.argv[1:])
