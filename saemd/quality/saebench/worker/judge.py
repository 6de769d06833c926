"""SAEBench's AutoInterp with any OpenAI-compatible judge, and a count of the replies that it drops.

SAEBench asks gpt-4o-mini alone, and silently leaves out every latent whose reply is no list of numbers. The score of a
judge that answers nonsense half of the time would hide it.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import openai
from sae_bench.evals.autointerp import main as autointerp

from saemd.errors import UserError, bad_value

NO_TEXT = "(the judge's reply holds no text)"  # no number: counted among the replies that cannot be parsed


@dataclass
class Replies:
    """Counts of the judge's replies about one SAE."""

    predictions: int = 0  # replies that should be a list of numbers, one for each latent
    unparsed: int = 0
    examples: list[str] = field(default_factory=list)  # the first of these

    def refuse_nonsense(self, judge: str) -> None:
        """Raises `UserError` where no reply could be parsed: there is no score then."""
        if self.predictions and self.unparsed == self.predictions:
            reason = f"{self.unparsed} of {self.predictions} replies are no list of numbers, as {self.examples[0]!r}"
            raise bad_value("judge", judge, f"{reason}; choose a judge that follows the instructions")


@contextmanager
def judged_by(base_url: str, judge: str, key_variable: str) -> Any:
    """Within, SAEBench asks `judge` at `base_url`; yields the count of its replies."""
    replies = Replies()
    parse = autointerp.AutoInterp.parse_predictions

    def counted(self: Any, text: str) -> list[int] | None:
        numbers = parse(self, text)
        replies.predictions += 1
        if numbers is None:
            replies.unparsed += 1
            if len(replies.examples) < 5:
                replies.examples.append(text[:200])
        return numbers

    def client(api_key: str) -> openai.OpenAI:
        """OpenAI's client, with another model name, and with a text in every reply."""
        own = openai.OpenAI(api_key=api_key, base_url=base_url)
        create = own.chat.completions.create

        def with_text(model: str, **request: Any) -> Any:
            response = create(model=judge, **request)
            for choice in response.choices:
                if not (choice.message.content or "").strip():
                    choice.message.content = NO_TEXT
            return response

        own.chat.completions.create = with_text
        return own

    with patch.multiple(autointerp.AutoInterp, parse_predictions=counted), patch.multiple(autointerp, OpenAI=client):
        try:
            yield replies
        except openai.AuthenticationError as error:
            raise bad_value("key_variable", key_variable, f"{base_url} refuses the key it holds (401)") from error
        except openai.APIConnectionError as error:
            raise bad_value(
                "base_url", base_url, "cannot be reached; name the /v1 address of a running server"
            ) from error
        except openai.APIStatusError as error:
            message = " ".join(str(error).split())[:200]
            raise UserError(f"judge={judge}: {base_url} answers with an error ({message})") from error
