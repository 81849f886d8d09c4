//! A machine check that all vCPUs of a guest take at once, as Intel's CPUs without local machine
//! checks do: one with the lost page, the others with a record that says "not here".
//!
//! ```text
//!  the thread that was refused a page          the thread of every other vCPU
//!    holds, and nudges the others ───────────► out of the guest
//!    waits ◄────────────────────────────────── stands: ready, not yet, or never
//!      all ready: queues its own record
//!      and lets go ───── Take ───────────────► queues its record, and enters
//!      otherwise ─────── Go ─────────────────► enters
//! ```
//!
//! A guest whose vCPUs do not all come would give up on those that are missing, so it is all or none:
//! who cannot take one, or does not come in time, has the failure reported instead. One that is in the
//! middle of something is let go, to be done with it, and called again. The machine check of a
//! vCPU that nobody runs just now is owed to it, unless its guest could not take one when it left.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use surefault_core::VcpuId;

use crate::signals::Kicker;

/// How long the others may take to come: as long as Linux waits for its CPUs in the handler.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one that was in the middle of something is left alone, and after which one that has not
/// come is nudged again: it may have been where no signal reaches it.
const SETTLE: Duration = Duration::from_millis(2);

/// Whether a vCPU that stands outside of the guest can take a machine check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Readiness {
    /// Now.
    Ready,
    /// Not before it is done with what it is in the middle of.
    NotYet,
    /// Its guest would shut down, or not hear of it.
    Never,
}

/// What a vCPU that stands is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Queue a record, and enter.
    Take,
    /// Enter.
    Go,
}

/// The vCPUs of one VM.
#[derive(Debug)]
pub(crate) struct Broadcast {
    places: Mutex<Places>,
    changed: Condvar,
}

#[derive(Debug)]
struct Places {
    /// Who tells its guest, while it does.
    holder: Option<VcpuId>,
    vcpus: Vec<Place>,
}

#[derive(Clone, Debug, Default)]
struct Place {
    /// What brings it out; `None` while nobody runs it.
    kicker: Option<Arc<Kicker>>,
    /// Somebody has run it. Before that it is on its way, and waited for.
    begun: bool,
    standing: Option<Readiness>,
    order: Option<Order>,
    /// A machine check is due at its next entry.
    owed: bool,
    /// It is not run, and its guest could not take one when it left.
    deaf: bool,
}

/// A vCPU is run, until this is dropped.
pub(crate) struct Present {
    broadcast: Arc<Broadcast>,
    id: VcpuId,
}

/// All others stand ready, until this is dropped.
pub(crate) struct Held {
    broadcast: Arc<Broadcast>,
    order: Order,
}

/// What came of calling all others.
pub(crate) enum Hold {
    /// They stand ready.
    All(Held),
    /// Somebody else was first: stand, and call again.
    Busy,
    /// One of them cannot take a machine check, or has not come.
    Missing,
}

impl Broadcast {
    pub(crate) fn new(vcpus: u16) -> Broadcast {
        Broadcast {
            places: Mutex::new(Places {
                holder: None,
                vcpus: vec![Place::default(); vcpus.into()],
            }),
            changed: Condvar::new(),
        }
    }

    /// This thread runs `id`, which `kicker` brings out.
    pub(crate) fn present(self: &Arc<Self>, id: VcpuId, kicker: &Arc<Kicker>) -> Present {
        let mut places = self.places();
        let place = places.of(id);
        place.kicker = Some(Arc::clone(kicker));
        place.begun = true;
        place.deaf = false;
        drop(places);
        Present {
            broadcast: Arc::clone(self),
            id,
        }
    }

    /// Whether somebody waits for `id` to stand.
    pub(crate) fn wants(&self, id: VcpuId) -> bool {
        let mut places = self.places();
        places.holder.is_some_and(|holder| holder != id) || places.of(id).owed
    }

    /// `id` stands outside of the guest, until it is told what to do.
    pub(crate) fn stand(&self, id: VcpuId, readiness: Readiness) -> Order {
        let mut places = self.places();
        if places.holder.is_some_and(|holder| holder != id) {
            places.of(id).standing = Some(readiness);
            self.changed.notify_all();
            loop {
                if let Some(order) = places.of(id).order.take() {
                    return order;
                }
                places = self.wait(places, PATIENCE);
            }
        }
        let place = places.of(id);
        match (place.owed, readiness) {
            (true, Readiness::Ready) => {
                place.owed = false;
                Order::Take
            }
            (true, Readiness::Never) => {
                place.owed = false;
                Order::Go
            }
            (true, Readiness::NotYet) | (false, _) => Order::Go,
        }
    }

    /// Has all vCPUs but `id` stand ready.
    pub(crate) fn hold(self: &Arc<Self>, id: VcpuId) -> Hold {
        let mut places = self.places();
        if places.holder.is_some() {
            return Hold::Busy;
        }
        places.holder = Some(id);
        let held = Held {
            broadcast: Arc::clone(self),
            order: Order::Go,
        };
        let begun = Instant::now();
        places.nudge(id);
        let mut nudged = begun;
        loop {
            let others = (0..places.vcpus.len() as u32).map(VcpuId::new);
            let mut all = true;
            for other in others.filter(|&other| other != id) {
                let place = places.of(other);
                match (&place.kicker, place.standing) {
                    (None, _) if !place.begun => all = false,
                    (None, _) if place.deaf => {
                        drop(places);
                        return Hold::Missing;
                    }
                    (None, _) | (Some(_), Some(Readiness::Ready)) => {}
                    (Some(_), None) => all = false,
                    (Some(_), Some(Readiness::NotYet)) => {
                        place.standing = None;
                        place.order = Some(Order::Go);
                        all = false;
                        self.changed.notify_all();
                        nudged = Instant::now();
                    }
                    (Some(_), Some(Readiness::Never)) => {
                        drop(places);
                        return Hold::Missing;
                    }
                }
            }
            if all {
                return Hold::All(held);
            }
            if begun.elapsed() >= PATIENCE {
                drop(places);
                return Hold::Missing;
            }
            if nudged.elapsed() >= SETTLE {
                places.nudge(id);
                nudged = Instant::now();
            }
            places = self.wait(places, SETTLE);
        }
    }

    fn wait<'a>(&self, places: MutexGuard<'a, Places>, most: Duration) -> MutexGuard<'a, Places> {
        let waited = self.changed.wait_timeout(places, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // No step in here leaves it half done.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn of(&mut self, id: VcpuId) -> &mut Place {
        &mut self.vcpus[id.get() as usize]
    }

    /// Brings out all that do not stand.
    fn nudge(&self, but: VcpuId) {
        for (n, place) in self.vcpus.iter().enumerate() {
            if let (Some(kicker), None) = (&place.kicker, place.standing)
                && n != but.get() as usize
            {
                kicker.nudge();
            }
        }
    }
}

impl Present {
    /// It is run no more, for now, and would take a machine check as `readiness` says.
    pub(crate) fn leave(self, readiness: Readiness) {
        self.broadcast.places().of(self.id).deaf = readiness == Readiness::Never;
    }
}

impl Held {
    /// The guest is told: the others take theirs, too.
    pub(crate) fn take(mut self) {
        self.order = Order::Take;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut places = self.broadcast.places();
        let holder = places.holder.take();
        for (n, place) in places.vcpus.iter_mut().enumerate() {
            if holder.is_some_and(|holder| holder.get() as usize == n) {
                continue;
            }
            let told = self.order == Order::Take;
            match place.standing.take() {
                Some(Readiness::Ready) => place.order = Some(self.order),
                // Only one that was not run when the others were counted.
                Some(Readiness::NotYet) => {
                    place.order = Some(Order::Go);
                    place.owed |= told;
                }
                Some(Readiness::Never) => place.order = Some(Order::Go),
                None => place.owed |= told,
            }
        }
        self.broadcast.changed.notify_all();
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut places = self.broadcast.places();
        places.of(self.id).kicker = None;
        self.broadcast.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::signals;

    const ONE: VcpuId = VcpuId::new(0);
    const OTHER: VcpuId = VcpuId::new(1);

    /// Runs vCPU 1 in a thread that stands as `answers` say, one after the other, until `calls` of
    /// them were asked for, while vCPU 0 calls it; what came of that, and vCPU 1's last order.
    fn call(answers: &'static [Readiness], tell: bool) -> (bool, Order) {
        let broadcast = Arc::new(Broadcast::new(2));
        let kicker = Arc::new(Kicker::new(signals::install().unwrap()));
        let present = broadcast.present(OTHER, &kicker);
        let standing = {
            let broadcast = Arc::clone(&broadcast);
            thread::spawn(move || {
                let mut order = Order::Go;
                for &answer in answers {
                    while !broadcast.wants(OTHER) {
                        thread::yield_now();
                    }
                    order = broadcast.stand(OTHER, answer);
                }
                drop(present);
                order
            })
        };
        let all = match broadcast.hold(ONE) {
            Hold::All(held) if tell => {
                held.take();
                true
            }
            Hold::All(_) => true,
            Hold::Busy | Hold::Missing => false,
        };
        (all, standing.join().unwrap())
    }

    #[test]
    fn all_are_told_or_none_is() {
        assert_eq!(call(&[Readiness::Ready], true), (true, Order::Take));
        assert_eq!(call(&[Readiness::Ready], false), (true, Order::Go));
        assert_eq!(call(&[Readiness::Never], true), (false, Order::Go));
        let later = &[Readiness::NotYet, Readiness::NotYet, Readiness::Ready];
        assert_eq!(call(later, true), (true, Order::Take));
    }

    #[test]
    fn who_is_not_run_any_more_is_owed_one() {
        let broadcast = Arc::new(Broadcast::new(2));
        let kicker = Arc::new(Kicker::new(signals::install().unwrap()));
        drop(broadcast.present(OTHER, &kicker));
        let Hold::All(held) = broadcast.hold(ONE) else {
            panic!("nobody else is run");
        };
        assert!(matches!(broadcast.hold(OTHER), Hold::Busy));
        held.take();
        assert!(!broadcast.wants(ONE) && broadcast.wants(OTHER));
        assert_eq!(broadcast.stand(OTHER, Readiness::NotYet), Order::Go);
        assert_eq!(broadcast.stand(OTHER, Readiness::Ready), Order::Take);
        assert!(!broadcast.wants(OTHER));
    }

    #[test]
    fn who_has_left_and_could_not_take_one_is_missing() {
        let broadcast = Arc::new(Broadcast::new(2));
        let kicker = Arc::new(Kicker::new(signals::install().unwrap()));
        broadcast.present(OTHER, &kicker).leave(Readiness::Never);
        assert!(matches!(broadcast.hold(ONE), Hold::Missing));
        broadcast.present(OTHER, &kicker).leave(Readiness::NotYet);
        assert!(matches!(broadcast.hold(ONE), Hold::All(_)));
    }

    #[test]
    fn who_does_not_come_is_not_waited_for_without_end() {
        let broadcast = Arc::new(Broadcast::new(2));
        let kicker = Arc::new(Kicker::new(signals::install().unwrap()));
        let _present = broadcast.present(OTHER, &kicker);
        assert!(matches!(broadcast.hold(ONE), Hold::Missing));
        assert!(!broadcast.wants(OTHER));
    }
}
