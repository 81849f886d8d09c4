//! The machine of pages.
