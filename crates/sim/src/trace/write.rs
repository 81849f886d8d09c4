//! A trace as text.

use core::fmt;

use super::{Trace, keys, parse};

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", parse::FIRST_LINE)?;
        writeln!(f, "{}", keys::written(&self.setup))?;
        for (at, step) in self.steps.iter().enumerate() {
            if self.cycle == Some(at) {
                writeln!(f, "cycle")?;
            }
            writeln!(f, "{step}")?;
        }
        if !self.expected.is_empty() {
            writeln!(f)?;
        }
        for expected in &self.expected {
            writeln!(f, "expect {expected}")?;
        }
        Ok(())
    }
}
