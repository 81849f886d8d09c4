//! What a page must contain.

use surefault_store::{FileStore, PatternStore, ReadRequest, Store};

use super::memory::{PageUse, Visit};
use super::{DemoError, Expect};

/// Knows what the source contains.
pub(super) struct Checker(Option<Box<dyn Store>>);

/// What is to be said of a page that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Check {
    Right,
    Wrong,
    Failed,
}

impl Checker {
    pub(super) fn new(expect: &Expect) -> Result<Checker, DemoError> {
        Ok(Checker(match expect {
            Expect::Anything => None,
            Expect::File(path) => {
                let store = FileStore::open_as_it_is(path).map_err(DemoError::Expect)?;
                Some(Box::new(store))
            }
            Expect::Pattern(seed) => Some(Box::new(PatternStore::new(*seed, u64::MAX))),
        }))
    }

    /// Checks the `data` of the page at `offset` of the source; `expected` is room for a page.
    pub(super) fn check(
        &self,
        offset: u64,
        visit: &Visit,
        data: &[u8],
        expected: &mut [u8],
    ) -> Check {
        if visit.after == PageUse::Failed {
            return Check::Failed;
        }
        let zero = |byte: &u8| *byte == 0;
        let is_right = match (visit.before, visit.after) {
            (PageUse::Given, _) => data.iter().all(zero),
            (_, PageUse::Contents) => match self.expected(offset, expected) {
                Some(is_known) => !is_known || data == expected,
                None => false,
            },
            // Given back meanwhile: data up to some byte, and zeros behind it.
            _ => match self.expected(offset, expected) {
                Some(true) => {
                    let pairs = data.iter().zip(expected.iter());
                    let same = pairs.take_while(|(a, b)| a == b).count();
                    data[same..].iter().all(zero)
                }
                Some(false) => true,
                None => data.iter().all(zero),
            },
        };
        if is_right { Check::Right } else { Check::Wrong }
    }

    /// Fills `expected`, and says whether it is known at all; `None` when there should be nothing.
    fn expected(&self, offset: u64, expected: &mut [u8]) -> Option<bool> {
        match &self.0 {
            None => Some(false),
            Some(store) => store
                .read(ReadRequest::first(offset), expected)
                .ok()
                .map(|()| true),
        }
    }
}
