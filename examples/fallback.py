"""Act on robust predictions only, and leave the other pictures to somebody else.

    python examples/fallback.py http://127.0.0.1:8000 examples/7.png --target 0.5

The line of each picture says what was decided, and by whom. Here "somebody else" is a list of
pictures for a person to look at; it might as well be a slower model, or nobody. A picture that the
service refuses goes there, too. If it refuses the key, the model or an option, the program ends.
"""

import argparse
from pathlib import Path

from pixeldp_client import BadRequest, Client, NotRobust, Prediction, Unavailable

# Problems of the picture alone: the same request with another picture may be answered.
REFUSED_PICTURES = (
    "not-a-picture",
    "too-many-bytes",
    "too-many-pixels",
    "unsupported-media-type",
    "cannot-certify-preprocessing",
)


def main() -> None:
    """Decide about each picture on the command line."""
    parser = argparse.ArgumentParser(description="Act on robust predictions only.")
    parser.add_argument("url")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--target", type=float, default=0.5, help="the size you need (0.5)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds per picture (10)")
    arguments = parser.parse_args()
    for_a_person: list[Path] = []

    with Client(arguments.url, timeout=arguments.timeout) as client:
        for picture in arguments.pictures:

            def ask_a_person(
                reason: NotRobust | Unavailable | BadRequest, picture: Path = picture
            ) -> None:
                for_a_person.append(picture)
                print(f"{picture}: for a person, as {reason}")

            try:
                answer = client.predict_or(picture, ask_a_person, target=arguments.target)
            except BadRequest as refusal:
                if refusal.problem not in REFUSED_PICTURES:
                    parser.exit(2, f"fallback.py: {refusal}\n")
                ask_a_person(refusal)
                continue
            if isinstance(answer, Prediction):
                print(f"{picture}: {answer.label.name}, certified at {answer.certified_size:g}")

    print(f"{len(for_a_person)} of {len(arguments.pictures)} pictures are for a person")


if __name__ == "__main__":
    main()
