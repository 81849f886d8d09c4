//! The command `ctl`.

use core::fmt::Write as _;
use core::str::FromStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;
use surefault_serve::control::{
    ControlClient, ControlError, ListenerInfo, Pages, Reply, Request, VmInfo,
};
use surefault_serve::event::VmId;

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::output::{print, print_json, print_on};
use crate::serve::Listen;

#[derive(Args, Clone, Debug)]
pub(crate) struct CtlArgs {
    /// The control socket: of a daemon, or of a run (`run --control`), which can only be told to
    /// resume.
    #[arg(value_name = "PATH")]
    path: PathBuf,

    #[command(subcommand)]
    command: CtlCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum CtlCommand {
    /// Let VMMs connect to another socket.
    Add {
        /// The socket, and the file that has the memory of its VMs.
        #[arg(value_name = "SOCKET=STORE")]
        listen: Listen,
    },
    /// Let nobody else connect to a socket. Its VMs are served on.
    Remove {
        /// The socket.
        socket: PathBuf,
    },
    /// Show the sockets and the VMs.
    List {
        /// The form on standard output.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Try pages that have failed afresh: their source was repaired.
    Heal {
        /// The VM's number.
        #[arg(value_name = "VM")]
        vm: u64,
        /// Pages, counted from 0 in the first region, or in another: `5,9-12`, `1:0-3` [default: all].
        #[arg(value_name = "PAGES")]
        pages: Option<PagesList>,
    },
    /// Go on with another program, without letting go of a VM.
    Upgrade {
        /// The program [default: the one that the daemon was started from].
        #[arg(value_name = "BINARY")]
        binary: Option<PathBuf>,
    },
    /// Have a run that has stopped at a failed page go on: the access is made again.
    Resume,
    /// The same, the page being repaired first: its planned failures (--fail) are over.
    Repair,
    /// Show what happens, until the daemon ends.
    Events {
        /// The form on standard output; with json one object a line.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

/// Pages of regions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PagesList(Vec<Pages>);

impl FromStr for PagesList {
    type Err = String;

    fn from_str(text: &str) -> Result<PagesList, String> {
        let mut region = 0;
        let mut list = Vec::new();
        for piece in text.split(',') {
            let wrong = || format!("'{piece}' is not pages: expected `5`, `9-12` or `1:9-12`");
            let pages = match piece.split_once(':') {
                Some((number, pages)) => {
                    region = number.parse().map_err(|_| wrong())?;
                    pages
                }
                None => piece,
            };
            let (first, last) = pages.split_once('-').unwrap_or((pages, pages));
            let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(wrong());
            }
            list.push(Pages {
                region,
                first,
                last,
            });
        }
        Ok(PagesList(list))
    }
}

pub(crate) fn ctl(args: &CtlArgs) -> Result<Exit, Failure> {
    let mut client = ControlClient::connect(&args.path).map_err(failure)?;
    match &args.command {
        CtlCommand::Add { listen } => {
            let socket = std::path::absolute(&listen.socket);
            let store = std::path::absolute(&listen.store);
            let (socket, store) = socket
                .and_then(|socket| Ok((socket, store?)))
                .map_err(|error| Failure::new(Exit::Unexpected, error))?;
            let store = store.display().to_string();
            client
                .ask(&Request::Add { socket, store })
                .map_err(failure)?;
        }
        CtlCommand::Remove { socket } => {
            let socket = std::path::absolute(socket)
                .map_err(|error| Failure::new(Exit::Unexpected, error))?;
            client.ask(&Request::Remove { socket }).map_err(failure)?;
        }
        CtlCommand::List { format } => list(&mut client, *format)?,
        CtlCommand::Heal { vm, pages } => {
            let pages = pages.clone().map_or_else(Vec::new, |list| list.0);
            let vm = VmId::new(*vm);
            if let Reply::Healed { pages } =
                client.ask(&Request::Heal { vm, pages }).map_err(failure)?
            {
                print(&format!(
                    "{pages} failed pages of vm {vm} are tried afresh\n"
                ))?;
            }
        }
        CtlCommand::Upgrade { binary } => upgrade(&mut client, &args.path, binary.as_deref())?,
        CtlCommand::Resume => resume(&mut client, false)?,
        CtlCommand::Repair => resume(&mut client, true)?,
        CtlCommand::Events { format } => events(&mut client, *format)?,
    }
    Ok(Exit::Ran)
}

/// How long a successor that has begun may take to serve.
const TAKES_OVER: Duration = Duration::from_secs(30);

/// Done when the successor answers.
fn upgrade(
    client: &mut ControlClient,
    control: &Path,
    binary: Option<&Path>,
) -> Result<(), Failure> {
    let binary = binary.map(std::path::absolute).transpose();
    let binary = binary.map_err(|error| Failure::new(Exit::Unexpected, error))?;
    client.ask(&Request::Upgrade { binary }).map_err(failure)?;
    let until = Instant::now() + TAKES_OVER;
    // The old one hangs up when it is replaced.
    while client.ask(&Request::List {}).is_ok() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut successor = ControlClient::connect(control).map_err(failure)?;
    match successor.ask(&Request::List {}).map_err(failure)? {
        Reply::Listed { vms, .. } => print(&format!("upgraded: {} VMs are served on\n", vms.len())),
        _ => print("upgraded\n"),
    }
}

fn resume(client: &mut ControlClient, repaired: bool) -> Result<(), Failure> {
    client.ask(&Request::Resume { repaired }).map_err(failure)?;
    Ok(())
}

fn events(client: &mut ControlClient, format: Format) -> Result<(), Failure> {
    client.ask(&Request::Events {}).map_err(failure)?;
    while let Some(event) = client.next_event().map_err(failure)? {
        let line = match format {
            Format::Text => event.to_string(),
            Format::Json => serde_json::to_string(&event)
                .map_err(|error| Failure::new(Exit::Unexpected, error))?,
        };
        if print_on(&(line + "\n"))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// What `list` writes, for programs.
#[derive(Serialize)]
struct Listed {
    schema: u32,
    command: &'static str,
    listeners: Vec<ListenerInfo>,
    vms: Vec<VmInfo>,
}

fn list(client: &mut ControlClient, format: Format) -> Result<(), Failure> {
    let reply = client.ask(&Request::List {}).map_err(failure)?;
    let Reply::Listed { listeners, vms } = reply else {
        let error = anyhow::anyhow!("the daemon gave another answer");
        return Err(Failure::new(Exit::Unexpected, error));
    };
    match format {
        Format::Json => print_json(&Listed {
            schema: 1,
            command: "ctl",
            listeners,
            vms,
        }),
        Format::Text => print(&table(&listeners, &vms)),
    }
}

fn table(listeners: &[ListenerInfo], vms: &[VmInfo]) -> String {
    let mut text = String::new();
    for ListenerInfo { socket, store } in listeners {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} serves {store}", socket.display());
    }
    for vm in vms {
        let _ = writeln!(
            text,
            "vm {}: process {} at {}, {} MiB, {} pages present, {} pending, {} failed, {} faults",
            vm.vm,
            vm.pid,
            vm.socket.display(),
            vm.bytes >> 20,
            vm.present,
            vm.pending,
            vm.failed,
            vm.faults
        );
    }
    text
}

fn failure(error: ControlError) -> Failure {
    let exit = match &error {
        ControlError::Connect { .. } | ControlError::Refused(_) => Exit::Usage,
        _ => Exit::Unexpected,
    };
    Failure::new(exit, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::fields::assert_described;

    #[test]
    fn pages_in_words() {
        let pages = |region, first, last| Pages {
            region,
            first,
            last,
        };
        let parsed = "5,9-12,1:0-3,7".parse::<PagesList>().expect("pages");
        let wanted = vec![
            pages(0, 5, 5),
            pages(0, 9, 12),
            pages(1, 0, 3),
            pages(1, 7, 7),
        ];
        assert_eq!(parsed.0, wanted);
        for wrong in ["", "x", "5-", "12-9", "1:", "-3", "1:2:3"] {
            assert!(wrong.parse::<PagesList>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_field_is_described() {
        let listed = Listed {
            schema: 1,
            command: "ctl",
            listeners: vec![ListenerInfo {
                socket: "s".into(),
                store: "m".to_owned(),
            }],
            vms: vec![VmInfo {
                vm: VmId::new(1),
                pid: 1,
                socket: "s".into(),
                store: "m".to_owned(),
                bytes: 1,
                present: 1,
                pending: 1,
                failed: 1,
                faults: 1,
            }],
        };
        let value = serde_json::to_value(listed).expect("JSON");
        assert_described("surefault ctl PATH list", &value, &[]);
    }
}
