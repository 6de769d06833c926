"""Text: reading documents, and packing them into contexts. Knows nothing of a model but its tokenizer."""

from saemd.corpus.documents import check_corpus, documents, fingerprint, some_documents
from saemd.corpus.pack import Context, contexts

__all__ = ["Context", "check_corpus", "contexts", "documents", "fingerprint", "some_documents"]
