//! The stock kernels, and busybox: fetched from Debian, unpacked and kept outside the tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::command::{output, require};
use crate::lock::Lock;
use crate::missing::Missing;

/// A kernel of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// As it is asked for, and as cases speak of it.
    pub(crate) name: &'static str,
    pub(crate) origin: Origin,
}

/// Where a kernel comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The newest cloud kernel of this suite of Debian.
    Suite(&'static str),
    /// It runs already.
    Host,
}

/// The kernels there are, oldest first. A newer one is a line here.
pub(crate) const KERNELS: [Kernel; 4] = [
    stock("6.1", OLDEST_SUITE),
    stock("6.12", "bookworm-backports"),
    stock("7.3", "trixie-backports"),
    Kernel {
        name: "host",
        origin: Origin::Host,
    },
];

/// Busybox comes from it, too.
const OLDEST_SUITE: &str = "bookworm";

const fn stock(name: &'static str, suite: &'static str) -> Kernel {
    Kernel {
        name,
        origin: Origin::Suite(suite),
    }
}

/// The small kernel: fewer drivers, but all of KVM, and booting in a few seconds under emulation.
const META: &str = "linux-image-cloud-amd64";
/// In the order in which they must be loaded.
const MODULES: [&str; 3] = ["irqbypass", "kvm", "kvm-amd"];

/// A kernel on disk.
#[derive(Clone, Debug)]
pub(crate) struct KernelFiles {
    /// The version of its package.
    pub(crate) package_version: String,
    pub(crate) vmlinuz: PathBuf,
    /// Uncompressed, in loading order.
    pub(crate) modules: Vec<PathBuf>,
}

/// Everything that comes from packages.
pub(crate) struct Packages {
    pub(crate) busybox: PathBuf,
    /// Without files where it runs already.
    pub(crate) kernels: Vec<(Kernel, Option<KernelFiles>)>,
}

impl Packages {
    /// Gets the kernels asked for, from the cache where it has the newest.
    ///
    /// # Errors
    /// [`Missing`], where packages cannot be had on this machine.
    pub(crate) fn get(cache: &Path, kernels: &[Kernel], refresh: bool) -> Result<Self> {
        // Two runs at once must not unpack into the same place.
        let _lock = Lock::of(cache)?;
        require("tar", "apt-get install tar")?;
        let suites: Vec<_> = KERNELS
            .iter()
            .filter_map(|kernel| match kernel.origin {
                Origin::Suite(suite) => Some(suite),
                Origin::Host => None,
            })
            .collect();
        let apt = Apt::new(cache.join("apt"), &suites, refresh)?;
        let busybox = get_busybox(&apt, cache)?;
        let kernels = kernels
            .iter()
            .map(|&kernel| {
                let files = match kernel.origin {
                    Origin::Host => None,
                    Origin::Suite(suite) => Some(
                        get_kernel(&apt, cache, suite)
                            .with_context(|| format!("getting Linux {}", kernel.name))?,
                    ),
                };
                Ok((kernel, files))
            })
            .collect::<Result<_>>()?;
        Ok(Self { busybox, kernels })
    }
}

fn get_busybox(apt: &Apt, cache: &Path) -> Result<PathBuf> {
    let version = apt.version("busybox-static", OLDEST_SUITE)?;
    let dir = unpacked(cache, "busybox-static", &version, |dir| {
        fetch(apt, "busybox-static", &version, dir, &["*/bin/busybox"])
    })?;
    find(&dir, |name| name == "busybox")?.context("busybox-static has no busybox")
}

fn get_kernel(apt: &Apt, cache: &Path, suite: &str) -> Result<KernelFiles> {
    let meta = apt.version(META, suite)?;
    let dir = unpacked(cache, META, &meta, |dir| {
        let mut wanted = vec!["*/vmlinuz*".to_owned()];
        wanted.extend(MODULES.iter().map(|module| format!("*/{module}.ko*")));
        let wanted: Vec<_> = wanted.iter().map(String::as_str).collect();
        for (package, version) in image_packages(apt, META, &meta)? {
            fetch(apt, &package, &version, dir, &wanted)?;
        }
        for module in MODULES {
            decompress(dir, module)?;
        }
        Ok(())
    })?;
    let vmlinuz = find(&dir, |name| name.starts_with("vmlinuz"))?
        .with_context(|| format!("no kernel image in {META} {meta}"))?;
    let modules = MODULES
        .iter()
        .map(|module| {
            find(&dir, |name| name == format!("{module}.ko"))?
                .with_context(|| format!("no module {module} in {META} {meta}"))
        })
        .collect::<Result<_>>()?;
    Ok(KernelFiles {
        package_version: meta,
        vmlinuz,
        modules,
    })
}

/// The packages with the files of a kernel: what the meta package leads to by exact versions. One
/// package before Linux 7; from then on image, modules and the rest stand apart.
fn image_packages(apt: &Apt, package: &str, version: &str) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut queue = vec![(package.to_owned(), version.to_owned())];
    while let Some((package, version)) = queue.pop() {
        for dependency in apt.depends(&package, &version)? {
            let Some(version) = dependency.version else {
                continue;
            };
            let next = (dependency.package, version);
            let has_files = ["linux-image-", "linux-binary-", "linux-modules-"]
                .iter()
                .any(|prefix| next.0.starts_with(prefix));
            if has_files && !found.contains(&next) {
                found.push(next.clone());
                queue.push(next);
            }
        }
    }
    Ok(found)
}

/// A directory for one version of a package, filled once: a half-filled one is never used.
fn unpacked(
    cache: &Path,
    package: &str,
    version: &str,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let dir = cache.join(package).join(version);
    if dir.exists() {
        return Ok(dir);
    }
    eprintln!("matrix: getting {package} {version}");
    let partial = cache.join(package).join(format!(".{version}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    fill(&partial)?;
    fs::rename(&partial, &dir).with_context(|| format!("keeping {}", dir.display()))?;
    Ok(dir)
}

/// Downloads a package and unpacks the files that match.
fn fetch(apt: &Apt, package: &str, version: &str, into: &Path, wanted: &[&str]) -> Result<()> {
    let deb = apt.download(package, version, into)?;
    let mut tarball = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&deb)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting dpkg-deb")?;
    let stdout = tarball.stdout.take().context("dpkg-deb has no stdout")?;
    // tar says 2 when a pattern matched nothing, which is usual: not every package has every file.
    let status = Command::new("tar")
        .args(["-x", "--wildcards", "-C"])
        .arg(into)
        .args(wanted)
        .stdin(stdout)
        .stderr(Stdio::null())
        .status()
        .context("starting tar")?;
    let unpacked = tarball.wait().context("waiting for dpkg-deb")?;
    if !unpacked.success() || !matches!(status.code(), Some(0 | 2)) {
        bail!(
            "unpacking {}: dpkg-deb {unpacked}, tar {status}",
            deb.display()
        );
    }
    fs::remove_file(&deb).with_context(|| format!("removing {}", deb.display()))
}

/// Modules are packed with xz or zstd since 6.12; busybox's insmod takes them plain.
fn decompress(dir: &Path, module: &str) -> Result<()> {
    let Some(path) = find(dir, |name| name.starts_with(&format!("{module}.ko.")))? else {
        return Ok(());
    };
    let (program, package) = match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => ("xz", "xz-utils"),
        Some("zst") => ("zstd", "zstd"),
        Some("gz") => ("gzip", "gzip"),
        _ => bail!("{} is packed in an unknown way", path.display()),
    };
    require(program, &format!("apt-get install {package}"))?;
    let plain = output(Command::new(program).arg("-dc").arg(&path))?;
    fs::write(path.with_extension(""), plain)
        .with_context(|| format!("writing {} unpacked", path.display()))
}

/// The first file below `dir` whose name pleases.
fn find(dir: &Path, pleases: impl Fn(&str) -> bool + Copy) -> Result<Option<PathBuf>> {
    let mut entries: Vec<_> = fs::read_dir(dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if let Some(found) = find(&entry.path(), pleases)? {
                return Ok(Some(found));
            }
        } else if kind.is_file() && entry.file_name().to_str().is_some_and(pleases) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

/// Where downloads are kept: the user's cache directory, never the tree.
///
/// # Errors
/// [`Missing`], when neither `XDG_CACHE_HOME` nor `HOME` is set.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("surefault/matrix"))
        .ok_or_else(|| {
            Missing::new(
                "there is no cache directory: neither XDG_CACHE_HOME nor HOME is set",
                "set XDG_CACHE_HOME to a directory with 300 MB of room",
            )
            .into()
        })
}
