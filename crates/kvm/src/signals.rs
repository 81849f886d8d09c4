//! The two signals that a vCPU thread lives with: SIGBUS, which says which page failed, and the
//! kick, which gets it out of `KVM_RUN`.
//!
//! A library does not install signal handlers behind its user's back: the application calls
//! [`install`] once and passes the proof to each vCPU. Both handlers act only on a thread that is
//! inside `KVM_RUN`; everywhere else a SIGBUS goes to the handler that was there before,
//! and a kick is ignored.
//!
//! ```text
//!  idle ──arm──► armed ──KVM_RUN──┬─ SIGBUS: page's address noted, KVM_RUN gives EINTR
//!    ▲                            └─ kick: immediate_exit set, so KVM_RUN gives EINTR
//!    └──────────── disarm ◄───────── either way; a kick before KVM_RUN is not lost
//! ```
#![expect(
    unsafe_code,
    reason = "installs signal handlers, which work on the interrupted thread's state"
)]

use core::cell::Cell;
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering, compiler_fence};
use std::io;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use surefault_core::Hva;
use thiserror::Error;

/// SIGBUS code: the thread itself touched a page that is poisoned. KVM sends it for its guest.
const BUS_MCEERR_AR: c_int = 4;

/// Proof that [`install`] has been called in this process.
#[derive(Clone, Copy, Debug)]
pub struct Signals {
    kick: c_int,
}

/// Signal handlers that cannot be installed.
#[derive(Debug, Error)]
#[error("installing a handler for signal {signal}")]
pub struct InstallError {
    signal: c_int,
    source: io::Error,
}

/// What the handlers need while their thread is in `KVM_RUN`.
struct Armed {
    immediate_exit: *mut u8,
    /// Address of the page that failed last, if one did since arming.
    failed: Cell<Option<Hva>>,
}

thread_local! {
    // Const-initialized and without a destructor: reading it in a handler allocates nothing and
    // registers nothing.
    static ARMED: Cell<*const Armed> = const { Cell::new(ptr::null()) };
}

/// What SIGBUS did before us.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Installs the handlers for SIGBUS and for the kick, which is the third real-time signal that the
/// C library leaves to applications. Calling it again changes nothing.
///
/// A SIGBUS that is not about a guest's page goes on to the handler that was there before.
///
/// # Errors
/// When the kernel refuses, which it has no reason to.
pub fn install() -> Result<Signals, InstallError> {
    static INSTALLED: OnceLock<Signals> = OnceLock::new();
    static ONCE: Mutex<()> = Mutex::new(());

    let _one_at_a_time = ONCE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&signals) = INSTALLED.get() {
        return Ok(signals);
    }
    let kick = libc::SIGRTMIN() + 2;
    let previous = Box::new(current(libc::SIGBUS)?);
    // Published before the handler can run. Never freed: a handler may be reading it at any time.
    PREVIOUS.store(Box::into_raw(previous), Ordering::Release);
    set(libc::SIGBUS, on_sigbus)?;
    set(kick, on_kick)?;
    Ok(*INSTALLED.get_or_init(|| Signals { kick }))
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

fn current(signal: c_int) -> Result<libc::sigaction, InstallError> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action this only writes the present one.
    let result = unsafe { libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) };
    check(signal, result)?;
    // SAFETY: zero is a valid sigaction, and the kernel has filled it in.
    Ok(unsafe { action.assume_init() })
}

fn set(signal: c_int, handler: Handler) -> Result<(), InstallError> {
    // SAFETY: zero is a valid sigaction: no flags, an empty mask.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = handler as *const () as usize;
    // On an alternate stack where the thread has one; not restarting, so that KVM_RUN returns.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler is async-signal-safe: it touches atomics, a const thread local, and what
    // that points to.
    let result = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
    check(signal, result)
}

fn check(signal: c_int, result: c_int) -> Result<(), InstallError> {
    match result {
        0 => Ok(()),
        _ => Err(InstallError {
            signal,
            source: io::Error::last_os_error(),
        }),
    }
}

extern "C" fn on_kick(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    if let Some(armed) = armed() {
        // SAFETY: points into the vCPU's kvm_run, which outlives the arming.
        unsafe { armed.immediate_exit.write_volatile(1) };
    }
}

extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives every SA_SIGINFO handler a valid siginfo.
    let siginfo = unsafe { &*info };
    if let (Some(armed), BUS_MCEERR_AR) = (armed(), siginfo.si_code) {
        // SAFETY: a SIGBUS with this code has an address.
        let address = unsafe { siginfo.si_addr() };
        armed.failed.set(Some(Hva::new(address.addr() as u64)));
        return;
    }
    forward(signal, info, context);
}

/// Does what would have been done with this SIGBUS had we not been here.
fn forward(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: published before the handler was installed, never freed, never changed.
    let Some(previous) = (unsafe { previous.as_ref() }) else {
        return;
    };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // Back to the default: the access is made again as soon as this returns, and ends the
            // process as it would have.
            // SAFETY: SIG_DFL is a valid disposition for SIGBUS.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: SA_SIGINFO says that this is the handler's type.
            let handler = unsafe { core::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without SA_SIGINFO this is the handler's type.
            let handler = unsafe { core::mem::transmute::<usize, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}

fn unblock(signals: &[c_int]) {
    // SAFETY: zero is a valid signal set, though not a portable way to spell the empty one.
    let mut set = unsafe { MaybeUninit::<libc::sigset_t>::zeroed().assume_init() };
    // SAFETY: initializes the set.
    unsafe { libc::sigemptyset(&mut set) };
    for &signal in signals {
        // SAFETY: adds to an initialized set.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    // SAFETY: changes this thread's mask only; handlers for these signals are installed.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, ptr::null_mut()) };
    debug_assert_eq!(result, 0, "unblocking signals that there are");
}

fn armed<'a>() -> Option<&'a Armed> {
    let armed = ARMED.with(Cell::get);
    // SAFETY: not null only while `Run::new`'s caller holds the `Run`, on this very thread.
    unsafe { armed.as_ref() }
}

/// Gets a vCPU out of `KVM_RUN`, from any thread and at any time.
#[derive(Debug)]
pub struct Kicker {
    signals: Signals,
    kicked: AtomicBool,
    /// The thread that is running the vCPU; 0 while none is.
    thread: AtomicI32,
    /// The same, to be woken where it sleeps outside of KVM.
    sleeper: Mutex<Option<Thread>>,
    kicks: AtomicU64,
}

impl Kicker {
    pub(crate) fn new(signals: Signals) -> Kicker {
        Kicker {
            signals,
            kicked: AtomicBool::new(false),
            thread: AtomicI32::new(0),
            sleeper: Mutex::new(None),
            kicks: AtomicU64::new(0),
        }
    }

    /// Makes the vCPU's run end with "kicked" as soon as it can: now if it is running, at once when
    /// it is run next otherwise. Kicks before that moment are one.
    pub fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.kicks.fetch_add(1, Ordering::Relaxed);
        self.nudge();
    }

    /// Brings the vCPU's thread out of `KVM_RUN`, or out of its sleep, to look around: the run goes
    /// on. What it is to see must have been written before.
    pub(crate) fn nudge(&self) {
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            self.signal(thread);
        }
        self.wake();
    }

    /// Whether a kick is to be taken.
    pub(crate) fn is_kicked(&self) -> bool {
        self.kicked.load(Ordering::SeqCst)
    }

    /// Has the vCPU's own thread sleep until it is nudged, unless it has been since it last slept.
    pub(crate) fn sleep(&self) {
        if !self.is_kicked() {
            std::thread::park();
        }
    }

    /// The same, for no longer than `most`.
    pub(crate) fn sleep_for(&self, most: Duration) {
        if !self.is_kicked() {
            std::thread::park_timeout(most);
        }
    }

    /// Ends such a sleep, and nothing else.
    pub(crate) fn wake(&self) {
        if let Some(sleeper) = &*self.sleeper() {
            sleeper.unpark();
        }
    }

    fn sleeper(&self) -> MutexGuard<'_, Option<Thread>> {
        self.sleeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets the vCPU's thread out of `KVM_RUN` if it is in there, and asks for nothing more.
    pub(crate) fn interrupt(&self) {
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            self.signal(thread);
        }
    }

    fn signal(&self, thread: i32) {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: sends a signal whose handler is ours. The thread may have gone meanwhile, or
        // have left KVM_RUN: the kernel or the handler then ignores it.
        unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, self.signals.kick) };
    }

    /// Kicks so far, for statistics.
    pub fn kicks(&self) -> u64 {
        self.kicks.load(Ordering::Relaxed)
    }

    /// Takes the kick, if there was one.
    pub(crate) fn take(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }
}

/// Arms the handlers for one `KVM_RUN` on this thread; disarms them when dropped.
pub(crate) struct Run<'a> {
    kicker: &'a Kicker,
    // Boxed, so that its address stays while this moves.
    armed: Box<Armed>,
}

impl<'a> Run<'a> {
    /// Kicks from now on set the byte behind `immediate_exit`, which must stay valid for as long
    /// as this lives. Both signals are unblocked in this thread: with SIGBUS blocked, KVM would
    /// meet a poisoned page again and again, in the kernel.
    pub(crate) fn new(kicker: &'a Kicker, immediate_exit: NonNull<u8>) -> Run<'a> {
        unblock(&[libc::SIGBUS, kicker.signals.kick]);
        let armed = Box::new(Armed {
            immediate_exit: immediate_exit.as_ptr(),
            failed: Cell::new(None),
        });
        ARMED.with(|cell| cell.set(&raw const *armed));
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        *kicker.sleeper() = Some(std::thread::current());
        kicker.thread.store(thread, Ordering::SeqCst);
        Run { kicker, armed }
    }

    /// The page that failed, if a SIGBUS named one since the last call.
    pub(crate) fn take_failed(&self) -> Option<Hva> {
        compiler_fence(Ordering::SeqCst);
        self.armed.failed.take()
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.kicker.thread.store(0, Ordering::SeqCst);
        *self.kicker.sleeper() = None;
        ARMED.with(|cell| cell.set(ptr::null()));
        compiler_fence(Ordering::SeqCst);
    }
}
