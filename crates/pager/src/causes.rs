//! The texts of causes. The machines carry a number; here is what it says.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use surefault_core::{Cause, CauseId, CauseKind};

/// Texts that are kept. A cause beyond that is still named by its kind.
const LIMIT: usize = 65_536;

#[derive(Debug, Default)]
pub(crate) struct Causes {
    texts: Mutex<Texts>,
}

#[derive(Debug, Default)]
struct Texts {
    by_id: Vec<String>,
    ids: HashMap<String, CauseId>,
}

impl Causes {
    /// The cause of this kind with this text. The same text has the same id.
    pub(crate) fn add(&self, kind: CauseKind, text: String) -> Cause {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = texts.ids.get(&text) {
            return Cause { kind, id };
        }
        if texts.by_id.len() >= LIMIT {
            return Cause {
                kind,
                id: CauseId::default(),
            };
        }
        texts.by_id.push(text.clone());
        // 0 is for causes without a text.
        let id = CauseId::new(texts.by_id.len() as u32);
        texts.ids.insert(text, id);
        Cause { kind, id }
    }

    /// What there is to say about `cause`.
    pub(crate) fn text(&self, cause: Cause, deadline: Duration) -> String {
        let texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        let text = (cause.id.get() as usize)
            .checked_sub(1)
            .and_then(|n| texts.by_id.get(n));
        match (cause.kind, text) {
            (CauseKind::Deadline, None) => format!("no answer from the source within {deadline:?}"),
            (CauseKind::Deadline, Some(last)) => {
                format!("not provided within {deadline:?}; the last error was: {last}")
            }
            (_, Some(text)) => text.clone(),
            (kind, None) => format!("{kind} (too many failures to keep all their texts)"),
        }
    }
}
