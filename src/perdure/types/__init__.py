"""Values that every room shares: messages, chunks, events, records, errors, ids, usage; and pure folds over them."""
