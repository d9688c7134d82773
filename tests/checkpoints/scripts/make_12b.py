"""Train the 12B sample: `python make_12b.py WORK [folder]` (about fifteen minutes on one core).

WORK keeps the state of the two phases (what sees and hears, then everything) and lets a stopped run go on; each
phase is skipped once its file is complete.
"""

import sys
from pathlib import Path

import kinds
import start
import torch
import training
from collate import Collator, UnifiedCollator
from make_e2b import companions, compare_all, log, publish, report, warmed_up
from training import Schedule
from warm_up import layers_lesson

SEED = 3
WARM_UP = Schedule(steps=300, rate=3e-3, rise=30, floor=0.05, seed=5)
COUNTS = training.FULL_COUNTS | {"image+audio+video": 3}
TOGETHER = Schedule(steps=600, rate=2e-3, coarse_share=0.5, seed=11, counts=COUNTS)


def trained(collator: Collator, work: Path) -> training.Unified:
    """Return the trained model."""
    model = training.Unified._from_config(kinds.unified())
    log(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    warmed_up(model, layers_lesson(model, collator), WARM_UP, SEED, work / "early.pt")
    training.train(model, collator, TOGETHER, work / "together.pt", log)
    start.spread_norms(model, SEED)
    report("float32", model, collator)
    return model


def main() -> None:
    """Train and write the sample."""
    work = Path(sys.argv[1])
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parents[1] / "12b"
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    collator = UnifiedCollator(companions(work, unified=True))
    compare_all(collator)
    publish(trained(collator, work), collator, folder, SEED, unified=True)


if __name__ == "__main__":
    main()
