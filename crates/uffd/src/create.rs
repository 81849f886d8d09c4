//! Getting a userfaultfd: the system call, the device, and what to do when neither is allowed.

use linux_raw_sys::general as raw;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use thiserror::Error;

use crate::abi::{self, Api};
use crate::{Features, Userfaultfd};

/// The device that gives out userfaultfds to whom its file mode lets in (Linux 6.1).
const DEVICE: &str = "/dev/userfaultfd";

/// Descriptors are closed on exec, and never block: the kernel answers `poll` on a blocking one with
/// an error (`userfaultfd_poll`).
const FLAGS: u32 = raw::O_CLOEXEC | raw::O_NONBLOCK;

/// Whether faults that the kernel itself runs into must be served.
///
/// A KVM guest's faults are of that kind (`get_user_pages` in the vCPU thread or a worker), and so
/// are those of system calls given an absent page. A descriptor that is limited to user mode ends
/// them with SIGBUS or `EFAULT` at once (`handle_userfault`): of no use for a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KernelFaults {
    /// They must be served: creation fails where this is not allowed.
    #[default]
    Required,
    /// They are served where this is allowed; [`Userfaultfd::serves_kernel_faults`] says.
    IfAllowed,
    /// They are not served.
    Never,
}

/// What a new userfaultfd is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// Features without which creation fails.
    pub required: Features,
    /// Features that are switched on where the kernel has them; [`Userfaultfd::features`] says.
    pub wanted: Features,
    /// Faults of the kernel.
    pub kernel_faults: KernelFaults,
}

/// Why there is no userfaultfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The kernel has no userfaultfd, or a filter hides it.
    #[error(
        "this kernel has no userfaultfd: it needs one built with CONFIG_USERFAULTFD=y, and no \
         seccomp filter that answers the call with ENOSYS"
    )]
    Unsupported,
    /// The kernel has it, but this process may not have one that serves faults of the kernel.
    #[error(
        "no permission to serve page faults: the userfaultfd system call was refused, and \
         /dev/userfaultfd {}; any one of these helps: access to /dev/userfaultfd (say \
         `setfacl -m u:USER:rw /dev/userfaultfd`, Linux 6.1 and later), CAP_SYS_PTRACE, \
         `sysctl vm.unprivileged_userfaultfd=1`; in a container also a seccomp profile that allows \
         the call",
        device_problem(*device)
    )]
    NotPermitted {
        /// Why the device did not help.
        device: Errno,
    },
    /// Not even user-mode faults may be served.
    #[error(
        "no permission to serve page faults of user mode: a seccomp filter or security module \
         refuses the userfaultfd system call"
    )]
    UserModeNotPermitted,
    /// The kernel lacks features that were required.
    #[error("this kernel's userfaultfd lacks {missing} (it has {supported})")]
    MissingFeatures {
        /// Required, but not there.
        missing: Features,
        /// What there is.
        supported: Features,
    },
    /// `EVENT_FORK` was required without the capability that it needs.
    #[error("the userfaultfd feature EVENT_FORK needs CAP_SYS_PTRACE")]
    ForkNeedsCapability,
    /// The descriptor could not be made, for another reason than permission.
    #[error("cannot create a userfaultfd")]
    Create(#[source] Errno),
    /// The handshake failed.
    #[error("the userfaultfd handshake (UFFDIO_API) failed")]
    Handshake(#[source] Errno),
}

fn device_problem(errno: Errno) -> &'static str {
    match errno {
        Errno::NOENT => "does not exist",
        Errno::ACCESS | Errno::PERM => "may not be opened by this user",
        Errno::NXIO | Errno::NODEV => "is not usable here (a device cgroup?)",
        _ => "could not be used",
    }
}

impl Features {
    /// What this kernel supports, asked on a descriptor that is closed again: a handshake with no
    /// feature wanted is answered with all there are (`userfaultfd_api`).
    ///
    /// # Errors
    /// When this process cannot have a userfaultfd of any kind.
    pub fn supported() -> Result<Features, CreateError> {
        let (fd, _) = new_fd(KernelFaults::IfAllowed)?;
        handshake(&fd, Features::empty())
    }
}

impl Userfaultfd {
    /// A new userfaultfd for the memory of this process, ready for use: the handshake is done.
    ///
    /// Tries the system call, then `/dev/userfaultfd`, then (if `options` allow) a descriptor that
    /// is limited to faults of user mode.
    ///
    /// # Errors
    /// [`CreateError`] says what the host lacks, and the remedy.
    pub fn create(options: Options) -> Result<Userfaultfd, CreateError> {
        let supported = Features::supported()?;
        let missing = options.required.difference(supported);
        if !missing.is_empty() {
            return Err(CreateError::MissingFeatures { missing, supported });
        }
        let enabled = options.required | options.wanted.intersection(supported);
        let (fd, serves_kernel_faults) = new_fd(options.kernel_faults)?;
        handshake(&fd, enabled)?;
        Ok(Userfaultfd::from_handshake(
            fd,
            enabled,
            serves_kernel_faults,
        ))
    }
}

/// `UFFDIO_API` with `features` wanted; gives the features that the kernel has.
fn handshake(fd: &OwnedFd, features: Features) -> Result<Features, CreateError> {
    let mut api = Api(raw::uffdio_api {
        api: u64::from(raw::UFFD_API),
        features: features.bits(),
        ioctls: 0,
    });
    match abi::call(fd, &mut api) {
        Ok(()) => Ok(Features::from_bits_retain(api.0.features)),
        Err(Errno::PERM) if features.contains(Features::EVENT_FORK) => {
            Err(CreateError::ForkNeedsCapability)
        }
        Err(errno) => Err(CreateError::Handshake(errno)),
    }
}

/// A descriptor, and whether it serves faults of the kernel.
fn new_fd(kernel_faults: KernelFaults) -> Result<(OwnedFd, bool), CreateError> {
    if kernel_faults != KernelFaults::Never {
        match unlimited_fd() {
            Ok(fd) => return Ok((fd, true)),
            Err(CreateError::NotPermitted { .. }) if kernel_faults == KernelFaults::IfAllowed => {}
            Err(error) => return Err(error),
        }
    }
    match abi::new_from_syscall(FLAGS | raw::UFFD_USER_MODE_ONLY) {
        Ok(fd) => Ok((fd, false)),
        Err(Errno::PERM) => Err(CreateError::UserModeNotPermitted),
        Err(Errno::NOSYS) => Err(CreateError::Unsupported),
        Err(errno) => Err(CreateError::Create(errno)),
    }
}

fn unlimited_fd() -> Result<OwnedFd, CreateError> {
    let refused = match abi::new_from_syscall(FLAGS) {
        Ok(fd) => return Ok(fd),
        Err(errno @ (Errno::PERM | Errno::NOSYS)) => errno,
        Err(errno) => return Err(CreateError::Create(errno)),
    };
    // The device exists for those whom the system call refuses; a filter may hide the call only.
    let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    match device.and_then(|device| abi::new_from_device(device, FLAGS)) {
        Ok(fd) => Ok(fd),
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
            Err(CreateError::Create(errno))
        }
        Err(_) if refused == Errno::NOSYS => Err(CreateError::Unsupported),
        Err(device) => Err(CreateError::NotPermitted { device }),
    }
}
