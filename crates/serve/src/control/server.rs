//! Answering who is connected to the control socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Reply, Request};
use crate::daemon::Shared;
use crate::keeper::chain;

/// A request may be this long.
const REQUEST_LIMIT: u64 = 64 << 10;
/// A client may take this long to take an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers one client until it hangs up.
pub(crate) fn serve_client(shared: &Arc<Shared>, stream: &UnixStream) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut requests = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut requests)
            .take(REQUEST_LIMIT)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        let request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(error) => {
                let reason = format!("not a request: {error}");
                say(stream, &Reply::Error { reason })?;
                // Where the next one begins is not known.
                return Ok(());
            }
        };
        if let Request::Events {} = request {
            let events = shared.events.listen();
            say(stream, &Reply::Done)?;
            for event in events {
                say(stream, &event)?;
            }
            return Ok(());
        }
        if let Request::Upgrade { binary } = request {
            upgrade(shared, stream, binary)?;
            continue;
        }
        say(stream, &answer(shared, request))?;
    }
}

/// Is answered when the successor has begun, and before it takes over.
fn upgrade(shared: &Shared, stream: &UnixStream, binary: Option<PathBuf>) -> io::Result<()> {
    let Some(handover) = &shared.handover else {
        let reason = "this daemon has no supervisor".to_owned();
        return say(stream, &Reply::Error { reason });
    };
    let reply = match handover.upgrade(binary) {
        Ok(()) => Reply::Done,
        Err(reason) => Reply::Error { reason },
    };
    let said = say(stream, &reply);
    handover.answered();
    said
}

fn answer(shared: &Arc<Shared>, request: Request) -> Reply {
    let done = match request {
        Request::Add { socket, store } => {
            let source = (shared.sources)(&store);
            source.and_then(|source| shared.listen(&socket, source).map_err(|e| chain(&e)))
        }
        Request::Remove { socket } => match shared.remove(&socket) {
            true => Ok(()),
            false => Err(format!("{} is not listened at", socket.display())),
        },
        Request::List {} => return shared.list(),
        Request::Heal { vm, pages } => match shared.heal(vm, &pages) {
            Ok(pages) => return Reply::Healed { pages },
            Err(reason) => Err(reason),
        },
        Request::Resume { .. } => Err("the daemon runs no VM that it could resume".to_owned()),
        // Answered before.
        Request::Events {} | Request::Upgrade { .. } => Ok(()),
    };
    match done {
        Ok(()) => Reply::Done,
        Err(reason) => Reply::Error { reason },
    }
}

fn say(mut stream: &UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}
