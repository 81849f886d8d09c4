//! Serves userfaults from a store: event loop, fetch pool, gate, install.
