//! From "asked for again and again" to *stuck*.
//!
//! That a page is asked for often does not say that it never comes: a host that is short of memory
//! may take a page away as often as the guest asks for it. What tells the two apart is whether the
//! page is ever there. So a suspect is looked at several times (its process's `pagemap`), a moment
//! apart, and is stuck when it was retried often enough and was absent each time.
//!
//! | a look finds the page | verdict |
//! |---|---|
//! | absent, [`LOOKS`] times in a row, retries ≥ the limit | stuck |
//! | present, and it is asked for in a [hurry](HURRY), [`LOOKS`] times in a row | stuck: it is there, but not as the access needs it |
//! | present otherwise | temporary: counted from the start |
//! | anything else | wait for the next look |
//!
//! What is stuck without a reason that can be [seen](Suspicion::doubt) is looked at for much longer:
//! a page that its process drops right after each use is hardly ever there either.
//!
//! A look takes several [glances](GLANCES), and finds the page when one of them does.

use std::time::Duration;

/// Looks in a row that must agree.
pub const LOOKS: u32 = 4;
/// Looks in a row when nothing explains that the page is not there.
pub const LOOKS_IN_DOUBT: u32 = 200;
/// Glances of one look. A page that comes and goes thousands of times a second is absent at some
/// moment of it, but not at each of 64 (four looks) unless it is hardly ever there.
pub const GLANCES: u32 = 16;
/// Retries per second that only the loop can make: a page that is mapped and taken away again costs
/// a fault, a page and an unmapping each time.
pub const HURRY: u32 = 10_000;

/// What a look into the process's page tables says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// No page there.
    Absent,
    /// A page is there.
    Present,
    /// It could not be looked at: its place is not known, or privileges are missing.
    Unknown,
}

/// What is thought of a suspect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Too early to say.
    Wait,
    /// It will not be mapped.
    Stuck,
    /// It was mapped: the trouble is temporary.
    Temporary,
}

/// The looks at one suspect.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Suspicion {
    in_doubt: bool,
    absent: u32,
    hurried: u32,
    retries: u32,
}

impl Suspicion {
    /// Whether it has been looked at once.
    pub fn is_fresh(&self) -> bool {
        self.absent + self.hurried == 1
    }

    /// Nothing was found that would explain the verdict: more looks are needed for the next.
    /// Whether this was a doubt already, and those looks have been made.
    pub fn doubt(&mut self) -> bool {
        std::mem::replace(&mut self.in_doubt, true)
    }

    fn looks(&self) -> u32 {
        match self.in_doubt {
            true => LOOKS_IN_DOUBT,
            false => LOOKS,
        }
    }

    /// Takes in a look, made `elapsed` after the one before it, when the page had been retried
    /// `retries` times; `stuck_after` is the limit.
    pub fn look(
        &mut self,
        presence: Presence,
        retries: u32,
        elapsed: Duration,
        stuck_after: u32,
    ) -> Verdict {
        let fresh = retries.saturating_sub(self.retries);
        self.retries = retries;
        if fresh == 0 {
            return Verdict::Wait;
        }
        let hurried = f64::from(fresh) >= f64::from(HURRY) * elapsed.as_secs_f64();
        match presence {
            Presence::Absent | Presence::Unknown => {
                self.hurried = 0;
                self.absent += 1;
                match self.absent >= self.looks() && retries >= stuck_after {
                    true => Verdict::Stuck,
                    false => Verdict::Wait,
                }
            }
            Presence::Present if hurried && fresh >= stuck_after => {
                self.absent = 0;
                self.hurried += 1;
                match self.hurried >= self.looks() {
                    true => Verdict::Stuck,
                    false => Verdict::Wait,
                }
            }
            Presence::Present => {
                *self = Suspicion::default();
                Verdict::Temporary
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn the_loop_is_stuck_after_some_looks() {
        let mut suspicion = Suspicion::default();
        let verdicts: Vec<Verdict> = (1..=LOOKS)
            .map(|look| suspicion.look(Presence::Absent, look * 1000, SHORT, 100))
            .collect();
        assert!(
            verdicts[..3]
                .iter()
                .all(|verdict| *verdict == Verdict::Wait)
        );
        assert_eq!(verdicts[3], Verdict::Stuck);
    }

    #[test]
    fn a_slow_loop_is_stuck_when_it_has_turned_often_enough() {
        let mut suspicion = Suspicion::default();
        for retries in 8..100 {
            assert_eq!(
                suspicion.look(Presence::Absent, retries, SHORT, 100),
                Verdict::Wait
            );
        }
        assert_eq!(
            suspicion.look(Presence::Absent, 100, SHORT, 100),
            Verdict::Stuck
        );
    }

    #[test]
    fn in_doubt_it_takes_longer() {
        let mut suspicion = Suspicion::default();
        let mut verdicts = (1..).map(|look| {
            let verdict = suspicion.look(Presence::Absent, look * 1000, SHORT, 100);
            (verdict == Verdict::Stuck).then(|| (look, suspicion.doubt()))
        });
        assert_eq!(verdicts.find_map(|verdict| verdict), Some((LOOKS, false)));
        let next = verdicts.find_map(|verdict| verdict);
        assert_eq!(next, Some((LOOKS_IN_DOUBT, true)));
    }

    #[test]
    fn no_news_is_no_evidence() {
        let mut suspicion = Suspicion::default();
        for _ in 0..100 {
            assert_eq!(
                suspicion.look(Presence::Absent, 500, SHORT, 100),
                Verdict::Wait
            );
        }
    }

    #[test]
    fn a_page_that_comes_and_goes_is_temporary() {
        let mut suspicion = Suspicion::default();
        for look in 0..100 {
            let presence = match look % 4 {
                3 => Presence::Present,
                _ => Presence::Absent,
            };
            let verdict = suspicion.look(presence, 10 * (look + 1), SHORT, 100);
            assert_ne!(verdict, Verdict::Stuck);
            assert_eq!(verdict == Verdict::Temporary, look % 4 == 3);
        }
    }

    #[test]
    fn a_page_that_is_there_and_asked_for_often_is_temporary() {
        for retries in 1..499 {
            let mut suspicion = Suspicion::default();
            let verdict = suspicion.look(Presence::Present, retries, SHORT, 100);
            assert_eq!(verdict, Verdict::Temporary);
        }
    }

    #[test]
    fn a_page_that_is_there_and_asked_for_in_a_hurry_is_stuck() {
        let mut suspicion = Suspicion::default();
        for look in 1..LOOKS {
            let verdict = suspicion.look(Presence::Present, 1000 * look, SHORT, 100);
            assert_eq!(verdict, Verdict::Wait);
        }
        assert_eq!(
            suspicion.look(Presence::Present, 9000, SHORT, 100),
            Verdict::Stuck
        );
    }
}
