"""Text: where documents come from, and how they become contexts. Knows nothing of models but their tokenizer."""

from saemd.corpus.documents import check_corpus, documents, fingerprint, some_documents
from saemd.corpus.pack import Context, contexts

__all__ = ["Context", "check_corpus", "contexts", "documents", "fingerprint", "some_documents"]
