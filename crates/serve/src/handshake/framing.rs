//! Where a JSON value ends in a stream of bytes, found in one pass however the bytes arrive.

/// Looks for the end of the first array or object.
#[derive(Clone, Debug, Default)]
pub(super) struct Framing {
    depth: u32,
    in_string: bool,
    escaped: bool,
    seen: usize,
}

impl Framing {
    /// Looks at what `bytes`, which have grown since the last call, have new; gives the length of the
    /// value once it is complete.
    ///
    /// Whether it is valid is not its business: where brackets do not match, the parser will say so.
    pub(super) fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate().skip(self.seen) {
            self.seen = at + 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.seen);
                    }
                }
                // What does not begin like an array will not become one.
                byte if self.depth == 0 && !byte.is_ascii_whitespace() => return Some(self.seen),
                _ => {}
            }
        }
        None
    }
}
