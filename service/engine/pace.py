"""How many draws there is time for, by the speed that was measured of a worker."""

from models.certification.division import LEAST_DRAWS, STEPS_SIZE

# For decoding, passes that are not full, and work that others have in between.
MARGIN = 2.0
# The longest pilot and the first look: with time for so many draws every picture is answered.
SURE_DRAWS = STEPS_SIZE.longest_pilot + STEPS_SIZE.first


def fitting(asked: int, draws_per_second: float, seconds: float) -> int:
    """Return the budget that a picture is granted which must be answered within ``seconds``.

    What it asked for, as a rule: at the deadline it is answered by the last look. But where there
    may be no time for the longest pilot and a first look, only as many draws as there is time for,
    and never less than the fewest that can be answered: the pilot is short then, and the last look
    early. Neither the speed nor the time depends on what the picture's draws will say.
    """
    affordable = int(draws_per_second * seconds / MARGIN)
    if affordable >= SURE_DRAWS:
        return asked
    return min(asked, max(affordable, LEAST_DRAWS))
