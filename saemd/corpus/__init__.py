"""Text: where documents come from, and how they become contexts. Knows nothing of models but their tokenizer."""

from saemd.corpus.documents import documents, fingerprint
from saemd.corpus.pack import Context, contexts

__all__ = ["Context", "contexts", "documents", "fingerprint"]
