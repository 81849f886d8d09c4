use proptest::prelude::*;

use super::*;

const FORGET: Duration = Duration::from_secs(1);
const MICRO: u64 = 1_000;
const SECOND: u64 = 1_000_000_000;

/// Machines, played into [`Turns`].
struct Play {
    turns: Turns,
    now: u64,
    tokens: u32,
}

impl Play {
    fn new() -> Play {
        Play {
            turns: Turns::new(FORGET, SUSPECT_AFTER, PageSize::KIB_4),
            now: SECOND,
            tokens: 0,
        }
    }

    fn event(&mut self, thread: u32, fault: AsyncFault) {
        self.now += MICRO;
        self.turns.handle(&Observed {
            at: Moment::from_nanos(self.now),
            thread: Tid::new(thread),
            fault,
        });
    }

    fn ask(&mut self, thread: u32, gva: u64, gfn: u64) -> Token {
        self.tokens += 1;
        let token = Token::new(self.tokens << 12 | 7);
        let gva = Gva::new(gva);
        let gfn = Gfn::new(gfn);
        self.event(thread, AsyncFault::Asked { gva, gfn });
        self.event(thread, AsyncFault::NotPresent { token, gva });
        token
    }

    fn complete(&mut self, gva: u64, hva: u64) {
        let (hva, gva) = (Hva::new(hva), Gva::new(gva));
        self.event(99, AsyncFault::Completed { hva, gva });
    }

    fn ready(&mut self, thread: u32, token: Token, gva: u64) {
        let gva = Gva::new(gva);
        self.event(thread, AsyncFault::Ready { token, gva });
    }

    /// One turn: of the loop, or of a healthy fault.
    fn turn(&mut self, thread: u32, gva: u64, gfn: u64, hva: u64) {
        let token = self.ask(thread, gva, gfn);
        self.complete(gva, hva);
        self.ready(thread, token, gva);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time.as_nanos() as u64;
        self.turns.expire(Moment::from_nanos(self.now));
    }

    fn retries(&self) -> Vec<(u32, u64, u32)> {
        let suspects = self.turns.suspects();
        suspects
            .iter()
            .map(|s| (s.key.thread.get(), s.key.gfn.get(), s.retries))
            .collect()
    }
}

#[test]
fn a_page_in_the_loop_is_a_suspect_and_its_place_is_known() {
    let mut play = Play::new();
    for _ in 0..100 {
        play.turn(1, 0x5123, 5, 0x7f00_0000_5000);
    }
    assert_eq!(play.retries(), [(1, 5, 99)]);
    let suspect = &play.turns.suspects()[0];
    assert_eq!(suspect.vcpu, Some(VcpuId::new(7)));
    assert_eq!(suspect.candidates, [Hva::new(0x7f00_0000_5000)]);
    assert!(suspect.last.since(suspect.first) > Duration::from_micros(300));
}

#[test]
fn healthy_pages_are_never_suspects_and_soon_forgotten() {
    let mut play = Play::new();
    for page in 0..100_000 {
        play.turn(1 + page as u32 % 4, page << 12, page, 0x1000);
        if page % 1000 == 0 {
            play.pass(Duration::from_millis(100));
        }
        assert!(play.retries().is_empty());
    }
    assert!(
        play.turns.remembered() <= 30_000,
        "{}",
        play.turns.remembered()
    );
    play.pass(FORGET);
    play.pass(FORGET);
    assert_eq!(play.turns.remembered(), 0);
    assert!(!play.turns.has_thread(Tid::new(1)));
}

#[test]
fn waiters_for_one_slow_page_are_not_retries() {
    let mut play = Play::new();
    let token = play.ask(1, 0x5000, 5);
    for _ in 0..1000 {
        let (gva, gfn) = (Gva::new(0x5000), Gfn::new(5));
        play.event(1, AsyncFault::Asked { gva, gfn });
    }
    play.ready(1, token, 0x5000);
    assert!(play.retries().is_empty());
}

#[test]
fn tasks_with_the_same_address_and_different_pages_are_told_apart() {
    let mut play = Play::new();
    // Shadow paging: a hundred processes of the guest that start at the same address.
    for gfn in 0..1000 {
        play.turn(1, 0x40_0000, gfn, 0x1000);
    }
    assert!(play.retries().is_empty());
    // Several items under way at once, which become ready in another order.
    let tokens: Vec<Token> = (0..60).map(|gfn| play.ask(1, 0x40_0000, gfn)).collect();
    for token in tokens.into_iter().rev() {
        play.ready(1, token, 0x40_0000);
    }
    assert!(play.retries().is_empty());
}

#[test]
fn temporary_trouble_is_forgotten() {
    let mut play = Play::new();
    for _ in 0..50 {
        play.turn(1, 0x5000, 5, 0x1000);
    }
    assert_eq!(play.retries(), [(1, 5, 49)]);
    play.now += 2 * SECOND;
    play.turns.expire(Moment::from_nanos(play.now));
    play.now += SECOND;
    let gone = play.turns.expire(Moment::from_nanos(play.now));
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].retries, 49);
    assert!(play.retries().is_empty());
    play.turn(1, 0x5000, 5, 0x1000);
    assert!(play.retries().is_empty());
}

#[test]
fn a_pause_starts_the_count_again() {
    let mut play = Play::new();
    for _ in 0..200 {
        play.turn(1, 0x5000, 5, 0x1000);
        play.pass(FORGET + Duration::from_millis(1));
    }
    assert!(play.retries().is_empty());
}

#[test]
fn a_page_that_is_waited_for_is_not_forgotten_however_slow_its_source_is() {
    let mut play = Play::new();
    for _ in 0..20 {
        let token = play.ask(1, 0x5000, 5);
        play.pass(10 * FORGET);
        play.pass(10 * FORGET);
        let before = Moment::from_nanos(play.now - SECOND);
        assert_eq!(play.turns.waited_for(before).len(), 1);
        play.complete(0x5000, 0x1000);
        play.ready(1, token, 0x5000);
        assert!(
            play.turns
                .waited_for(Moment::from_nanos(play.now))
                .is_empty()
        );
    }
    assert_eq!(play.retries(), [(1, 5, 19)]);
}

#[test]
fn machines_in_the_loop_at_the_same_address_keep_their_places() {
    let mut play = Play::new();
    // B's attempt is completed while A's page is waited for every other time.
    for round in 0..200 {
        let a = play.ask(1, 0x5000, 5);
        let b = (round % 2 == 0).then(|| play.ask(2, 0x5000, 5));
        if let Some(b) = b {
            play.complete(0x5000, 0xb000);
            play.ready(2, b, 0x5000);
        }
        play.complete(0x5000, 0xa000);
        play.ready(1, a, 0x5000);
        if b.is_none() {
            play.turn(2, 0x5000, 5, 0xb000);
        }
    }
    let suspects = play.turns.suspects();
    assert_eq!(suspects.len(), 2);
    assert_eq!(suspects[0].candidates[0], Hva::new(0xa000));
    assert_eq!(suspects[1].candidates[0], Hva::new(0xb000));
}

#[test]
fn a_page_that_was_seen_mapped_starts_anew() {
    let mut play = Play::new();
    for _ in 0..50 {
        play.turn(1, 0x5000, 5, 0x1000);
    }
    let key = play.turns.suspects()[0].key;
    play.turns.clear(key);
    assert!(play.retries().is_empty());
    for _ in 0..SUSPECT_AFTER {
        play.turn(1, 0x5000, 5, 0x1000);
        assert!(play.retries().is_empty());
    }
    play.turn(1, 0x5000, 5, 0x1000);
    assert_eq!(play.retries(), [(1, 5, SUSPECT_AFTER)]);
}

#[test]
fn a_thread_that_is_gone_is_forgotten() {
    let mut play = Play::new();
    for _ in 0..50 {
        play.turn(1, 0x5000, 5, 0x1000);
        play.turn(2, 0x5000, 5, 0x2000);
    }
    play.turns.forget_thread(Tid::new(1));
    assert_eq!(play.retries(), [(2, 5, 49)]);
}

proptest! {
    /// Whatever is lost or out of order: a page that was answered `n` times was retried at most
    /// `n` times, and what is remembered is bounded by what was heard.
    #[test]
    fn retries_are_never_made_up(
        events in proptest::collection::vec((0_u32..3, 0_u64..3, 0_u32..4, any::<bool>()), 0..400)
    ) {
        let mut play = Play::new();
        let mut answers = HashMap::new();
        let mut tokens = Vec::new();
        for (thread, page, what, lost) in events {
            let (gva, gfn) = (Gva::new(page << 12), Gfn::new(page));
            match what {
                0 => play.event(thread, AsyncFault::Asked { gva, gfn }),
                1 => {
                    play.tokens += 1;
                    let token = Token::new(play.tokens << 12);
                    tokens.push(token);
                    play.event(thread, AsyncFault::NotPresent { token, gva });
                }
                2 if !lost => {
                    let token = tokens.pop().unwrap_or(Token::new(0));
                    *answers.entry(thread).or_insert(0_u32) += 1;
                    play.event(thread, AsyncFault::Ready { token, gva });
                }
                _ => play.complete(page << 12, 0x1000),
            }
            for (thread, _, retries) in play.retries() {
                prop_assert!(retries <= answers.get(&thread).copied().unwrap_or(0));
            }
            prop_assert!(play.turns.remembered() <= 9);
        }
        for _ in 0..70 {
            play.pass(2 * FORGET);
        }
        prop_assert!(play.turns.suspects().iter().all(|suspect| suspect.retries > 0));
    }
}
