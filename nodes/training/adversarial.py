"""What a user should know before a student learns from real images too."""

from ...sid_core.training.settings import Settings


def before_adversarial(images: bool, settings: Settings, iterations: int) -> list[str]:
    """A sentence or two each. images: whether a run has real images connected to it."""
    if not images:
        return []
    if settings.adversarial_weight == 0:
        return [
            "Raise adversarial_weight of SiD Training Options, or take the images off: it is 0, so that nothing is "
            "learnt from them."
        ]
    told = [
        "Use real images only where they are better than what the student draws without them, as its authors advise: "
        "it learns their faults too."
    ]
    if settings.adversarial_warm_up >= iterations * settings.batch:
        told.append(
            f"Lower adversarial_warm_up of SiD Training Options, or raise iterations: it is "
            f"{settings.adversarial_warm_up:,} pictures, and the run has {iterations * settings.batch:,}, so that the "
            "student itself learns nothing from the images."
        )
    return told
