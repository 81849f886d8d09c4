//! What system calls the daemon may make: its clients are not trusted.
//!
//! It opens files to read them, and no others; it starts no program, traces nobody, and connects to
//! Unix sockets only. A call that is not on the list fails with `EPERM`: a daemon that was killed for
//! it would leave all its VMs frozen.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use thiserror::Error;

/// Why there is no filter.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// No list for this processor.
    #[error("there is no list of system calls for this processor")]
    Architecture,
    /// The list makes no filter.
    #[error("the seccomp filter cannot be made")]
    Build(#[source] BackendError),
    /// The kernel does not take it.
    #[error("the seccomp filter cannot be installed (is CONFIG_SECCOMP_FILTER on?)")]
    Install(#[source] seccompiler::Error),
}

/// Calls that are allowed whatever their arguments are.
const ALLOWED: &[libc::c_long] = &[
    // Files and sockets that are open.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_readlinkat,
    libc::SYS_fadvise64,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_close,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_eventfd2,
    // What a successor finds.
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_mlock,
    // Names of sockets.
    libc::SYS_unlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    // Processes that are served.
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    // Memory, threads, time.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_geteuid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same by the older names that x86 has, and its C libraries use.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_poll,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_readlink,
    libc::SYS_unlink,
    libc::SYS_chmod,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Limits this process, all its threads, and those that they start, to what the daemon needs.
/// There is no way back.
///
/// # Errors
/// When there is no filter for this processor, or the kernel does not take it. Nothing is limited
/// then.
pub fn enter() -> Result<(), SandboxError> {
    let program = program()?;
    seccompiler::apply_filter_all_threads(&program).map_err(SandboxError::Install)
}

fn program() -> Result<BpfProgram, SandboxError> {
    let target = TargetArch::try_from(std::env::consts::ARCH);
    let target = target.map_err(|_| SandboxError::Architecture)?;
    let unconditional = ALLOWED
        .iter()
        .chain(ALLOWED_HERE)
        .map(|&call| (call, Vec::new()));
    let conditional = conditions().map_err(SandboxError::Build)?;
    let rules = unconditional.chain(conditional).collect();
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, target);
    filter
        .and_then(TryInto::try_into)
        .map_err(SandboxError::Build)
}

/// Calls whose arguments decide.
fn conditions() -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, BackendError> {
    let rule = |argument, operation, value: u64| {
        let condition = SeccompCondition::new(argument, Len::Dword, operation, value)?;
        SeccompRule::new(vec![condition])
    };
    // To read, and nothing is created or cut.
    let writes = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;
    // Those of a userfaultfd; a socket's and a file's from the standard library.
    let userfaultfd = rule(1, Op::MaskedEq(0xff00), 0xaa00)?;
    let nonblocking = rule(1, Op::Eq, libc::FIONBIO)?;
    let close_on_exec = rule(1, Op::Eq, libc::FIOCLEX)?;
    Ok(vec![
        (libc::SYS_openat, vec![rule(2, Op::MaskedEq(writes), 0)?]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, vec![rule(1, Op::MaskedEq(writes), 0)?]),
        (
            libc::SYS_ioctl,
            vec![userfaultfd, nonblocking, close_on_exec],
        ),
        (
            libc::SYS_socket,
            vec![rule(0, Op::Eq, libc::AF_UNIX as u64)?],
        ),
        // Names of threads.
        (
            libc::SYS_prctl,
            vec![rule(0, Op::Eq, libc::PR_SET_NAME as u64)?],
        ),
        // What a new thread's stack may grow to is asked, never set.
        (libc::SYS_prlimit64, vec![rule(2, Op::Eq, 0)?]),
    ])
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::{self, Read as _};
    use std::net::TcpStream;
    use std::process::Command;

    use super::*;

    /// In a thread of its own, which takes the filter with it.
    #[test]
    fn what_is_refused() {
        let denied = |what: &str, answer: io::Result<()>| {
            let error = answer.expect_err(what);
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{what}: {error}");
        };
        let inside = move || {
            let program = program().expect("a filter");
            seccompiler::apply_filter(&program).expect("seccomp");
            let temporary = std::env::temp_dir().join("surefault-never-created");
            denied("writing", File::create(&temporary).map(drop));
            denied(
                "appending",
                OpenOptions::new().append(true).open("/dev/null").map(drop),
            );
            denied("a program", Command::new("/bin/true").status().map(drop));
            denied("TCP", TcpStream::connect("127.0.0.1:9").map(drop));
            denied("a directory", std::fs::create_dir(&temporary));
            let mut byte = [1];
            File::open("/dev/zero").and_then(|mut file| file.read_exact(&mut byte))?;
            // The older call, by another library.
            let read_only = rustix::fs::OFlags::RDONLY;
            rustix::fs::open("/dev/zero", read_only, rustix::fs::Mode::empty())?;
            let write = rustix::fs::open(
                "/dev/null",
                rustix::fs::OFlags::RDWR,
                rustix::fs::Mode::empty(),
            );
            denied("writing", write.map(drop).map_err(io::Error::from));
            std::os::unix::net::UnixStream::pair()
                .map(drop)
                .expect_err("a pair is not needed");
            std::thread::Builder::new()
                .spawn(|| {})?
                .join()
                .expect("it ends");
            io::Result::Ok(byte)
        };
        let byte = std::thread::spawn(inside).join().expect("no panic");
        assert_eq!(byte.expect("reading is allowed"), [0]);
    }
}
