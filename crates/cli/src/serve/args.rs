//! What can be said to the daemon, on the command line or in a file: the same words.

use core::str::FromStr;
use core::time::Duration;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer};
use surefault_pager::{FailedPage, Prefetch};
use surefault_serve::ServeConfig;

use crate::args::positive;

#[derive(Args, Clone, Debug)]
pub(crate) struct ServeArgs {
    /// A TOML file with the same words as these flags, say `deadline = "5s"`, and
    /// `listen = ["SOCKET=STORE"]`. Flags come before what it says; sockets add up.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) settings: Settings,

    /// Serve what the supervisor at standard input has. Workers are started so.
    #[arg(long, hide = true)]
    pub(crate) supervised: bool,

    /// Wait for the end of the supervisor at standard input, and take its place.
    #[arg(long, hide = true)]
    pub(crate) stand_by: bool,
}

/// What both can say.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// A socket for VMMs to connect to, and the file or block device that has the memory of its VMs.
    /// May be given several times.
    #[arg(long, value_name = "SOCKET=STORE")]
    pub(crate) listen: Vec<Listen>,

    /// A socket for `surefault ctl`.
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,

    /// How long a page may take, all attempts together, before it has failed [default: 5s].
    #[arg(long, value_name = "TIME", value_parser = positive)]
    #[serde(deserialize_with = "time")]
    pub(crate) deadline: Option<Duration>,

    /// What becomes of a page that has failed [default: poison where the kernel can, else kill].
    #[arg(long, value_enum)]
    pub(crate) failed_page: Option<FailedPageChoice>,

    /// How often a page is tried where trying again makes sense [default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) attempts: Option<u8>,

    /// What is read before it is wanted: `none`, `around=N` (the block of N pages that a page lies
    /// in), or `sequential` (what follows, where pages are wanted one after the other) [default:
    /// sequential].
    #[arg(long, value_name = "HOW")]
    #[serde(deserialize_with = "parsed")]
    pub(crate) prefetch: Option<Prefetch>,

    /// Serve metrics for Prometheus at this address of this host, say 127.0.0.1:9181.
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,

    /// A user who may connect, besides root and whoever runs this. The sockets are open to all then,
    /// and each who connects is asked. May be given several times.
    #[arg(long, value_name = "UID")]
    pub(crate) allow_uid: Vec<u32>,

    /// VMs at a time; others wait to be accepted [default: 1024].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_vms: Option<u32>,

    /// Regions that a VM may have [default: 256].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_regions: Option<u16>,

    /// MiB of memory that a VM may have [default: 1048576].
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_memory: Option<u32>,

    /// Page faults of a VM that are worked on at a time; others wait in the kernel [default: 1024].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_pending: Option<u16>,

    /// Threads that read for one VM at a time [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_reads: Option<u16>,

    /// How long a handshake may take [default: 5s].
    #[arg(long, value_name = "TIME", value_parser = positive)]
    #[serde(deserialize_with = "time")]
    pub(crate) handshake_time: Option<Duration>,

    /// Do without the filter of system calls.
    #[arg(long)]
    pub(crate) no_seccomp: bool,

    /// Serve in this very process, without another that goes on when it dies: VMs hang then.
    #[arg(long)]
    pub(crate) no_supervisor: bool,

    /// A worker that shows no sign of life for this long is killed, and another goes on [default:
    /// 10s].
    #[arg(long, value_name = "TIME", value_parser = positive)]
    #[serde(deserialize_with = "time")]
    pub(crate) worker_silence: Option<Duration>,
}

/// A socket, and what its VMs are served from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listen {
    pub(crate) socket: PathBuf,
    pub(crate) store: String,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        match text.split_once('=') {
            Some((socket, store)) if !socket.is_empty() && !store.is_empty() => Ok(Listen {
                socket: socket.into(),
                store: store.to_owned(),
            }),
            _ => Err(format!("'{text}' is not SOCKET=STORE")),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Listen, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FailedPageChoice {
    /// Accesses to it end with SIGBUS, in a vCPU thread with the address (Linux 6.6 and later).
    Poison,
    /// The VM's process is killed before it can see the page.
    Kill,
    /// Who touched it waits until the source heals, which is tried every second.
    Wait,
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    positive(&text).map(Some).map_err(serde::de::Error::custom)
}

fn parsed<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: core::fmt::Display>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Settings {
    /// Takes from `file` what was not said here.
    pub(super) fn fill_in(&mut self, file: Settings) {
        macro_rules! fill_in {
            ($($field:ident)*) => {
                $(self.$field = self.$field.take().or(file.$field);)*
            };
        }
        fill_in!(control deadline failed_page attempts prefetch metrics max_vms max_regions);
        fill_in!(max_memory max_pending max_reads handshake_time worker_silence);
        self.listen.extend(file.listen);
        self.allow_uid.extend(file.allow_uid);
        self.no_seccomp |= file.no_seccomp;
        self.no_supervisor |= file.no_supervisor;
    }

    pub(super) fn config(&self) -> ServeConfig {
        let mut config = ServeConfig::default();
        if let Some(deadline) = self.deadline {
            config = config.with_deadline(deadline);
        }
        config.pager.failed_page = match self.failed_page {
            None => FailedPage::Auto,
            Some(FailedPageChoice::Poison) => FailedPage::Poison,
            Some(FailedPageChoice::Kill) => FailedPage::Kill,
            Some(FailedPageChoice::Wait) => FailedPage::Wait,
        };
        let residency = &mut config.pager.residency;
        residency.attempts = self.attempts.unwrap_or(residency.attempts);
        residency.max_pending = self.max_pending.map_or(residency.max_pending, usize::from);
        residency.max_fetches = self.max_reads.map_or(residency.max_fetches, usize::from);
        config.pager.prefetch = self.prefetch.unwrap_or(config.pager.prefetch);
        config.control.clone_from(&self.control);
        config.allow_uids.clone_from(&self.allow_uid);
        config.max_vms = self.max_vms.map_or(config.max_vms, |n| n as usize);
        let handshake = &mut config.handshake;
        handshake.regions = self.max_regions.map_or(handshake.regions, usize::from);
        handshake.memory = self
            .max_memory
            .map_or(handshake.memory, |mib| u64::from(mib) << 20);
        handshake.time = self.handshake_time.unwrap_or(handshake.time);
        config
    }
}
