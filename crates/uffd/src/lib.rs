//! A thin, safe layer over Linux's userfaultfd.
