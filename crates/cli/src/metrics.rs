//! The smallest server that a Prometheus can scrape: whatever is asked for, the answer is the
//! metrics.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::exit::Failure;

/// A client may take this long for its request.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a client could not be accepted (no descriptors, say).
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);
/// A request may be this long.
const REQUEST_LIMIT: u64 = 8 << 10;

/// Serves what `render` gives at the time. Clients are served one after the other, by a thread that
/// ends with the process.
pub(crate) fn serve(
    address: SocketAddr,
    render: impl Fn() -> String + Send + 'static,
) -> Result<(), Failure> {
    let listener = TcpListener::bind(address).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("listen at {address}"));
        Failure::option("--metrics", error)
    })?;
    thread::spawn(move || {
        for client in listener.incoming() {
            match client {
                // A client that goes away is its own business.
                Ok(client) => drop(answer(client, &render())),
                Err(_) => thread::sleep(PAUSE_AFTER_ERROR),
            }
        }
    });
    Ok(())
}

/// Serves what it was last shown.
pub(crate) struct MetricsServer {
    text: Arc<Mutex<String>>,
}

impl MetricsServer {
    pub(crate) fn start(address: SocketAddr) -> Result<MetricsServer, Failure> {
        let text = Arc::new(Mutex::new(String::new()));
        let shown = Arc::clone(&text);
        // Copied, so that a slow client does not hold up who shows.
        let render = move || shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        serve(address, render)?;
        Ok(MetricsServer { text })
    }

    pub(crate) fn show(&self, text: String) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

fn answer(client: TcpStream, text: &str) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let mut request = BufReader::new((&client).take(REQUEST_LIMIT));
    let mut line = String::new();
    while request.read_line(&mut line)? > 0 && line.trim_end() != "" {
        line.clear();
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        text.len()
    );
    (&client).write_all(head.as_bytes())?;
    (&client).write_all(text.as_bytes())
}
