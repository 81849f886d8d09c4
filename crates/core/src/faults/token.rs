//! The tokens that name a paravirtual async page fault to the guest.

use crate::{Token, VcpuId};

/// The token that means every waiter of the vCPU.
pub const WAKE_ALL: Token = Token::new(!0);

/// Bits of a token that hold the vCPU's id.
const VCPU_BITS: u32 = 12;

/// Deals a vCPU's tokens: `(id << 12) | vcpu`, the id counting up and skipping 0, because the
/// token 0 says "slot free" (`alloc_apf_token`).
///
/// Unlike Linux it also skips ids still in use, which matters only when an item outlives all other
/// ids (a million faults at Linux's 20 bits): Linux would name two faults by one token.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Tokens {
    vcpu: u32,
    next: u32,
    bits: u8,
    /// The ids have been round once: the next one may be in use.
    wrapped: bool,
}

impl Tokens {
    pub(super) fn new(vcpu: VcpuId, bits: u8) -> Tokens {
        Tokens {
            vcpu: vcpu.get(),
            next: 1,
            bits,
            wrapped: false,
        }
    }

    /// The next token that `in_use` does not know. Fewer than 2^bits - 1 tokens are ever in use.
    pub(super) fn deal(&mut self, in_use: impl Fn(Token) -> bool) -> Token {
        let mut token = self.token(self.next);
        for _ in 0..1u32 << self.bits {
            token = self.token(self.next);
            let taken = self.wrapped && in_use(token);
            self.next = self.after(self.next);
            self.wrapped |= self.next == 1;
            // The all-ones token is the broadcast: id 2^20 - 1 of vCPU 4095.
            if !taken && token != WAKE_ALL {
                break;
            }
        }
        token
    }

    /// The token with this id.
    pub(super) fn token(&self, id: u32) -> Token {
        Token::new((id << VCPU_BITS) | self.vcpu)
    }

    /// Goes on as if the ids 1 to `used` had just been dealt, and no others were in use.
    pub(super) fn restart_after(&mut self, used: u32) {
        self.next = self.after(used);
        self.wrapped = used != 0 && self.next == 1;
    }

    /// Whether `token` can have come from here.
    pub(super) fn owns(&self, token: Token) -> bool {
        let id = token.get() >> VCPU_BITS;
        token.get() & ((1 << VCPU_BITS) - 1) == self.vcpu && id != 0 && id < 1 << self.bits
    }

    fn after(&self, id: u32) -> u32 {
        let next = (id + 1) & ((1 << self.bits) - 1);
        if next == 0 { 1 } else { next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_wrap_past_zero_and_past_those_in_use() {
        let mut tokens = Tokens::new(VcpuId::new(5), 2);
        let deal = |tokens: &mut Tokens| tokens.deal(|_| false).get();
        let dealt: Vec<u32> = (0..5).map(|_| deal(&mut tokens)).collect();
        assert_eq!(dealt, [0x1005, 0x2005, 0x3005, 0x1005, 0x2005]);
        let kept = Token::new(0x3005);
        assert_eq!(tokens.deal(|token| token == kept).get(), 0x1005);
        assert!(tokens.owns(kept));
        for foreign in [0, 5, 0x3004, 0x4005] {
            assert!(!tokens.owns(Token::new(foreign)), "{foreign:#x}");
        }
    }

    #[test]
    fn the_broadcast_token_is_never_dealt() {
        let mut tokens = Tokens::new(VcpuId::new(4095), 20);
        tokens.restart_after((1 << 20) - 2);
        assert_eq!(tokens.deal(|_| false).get(), 0x1fff);
    }
}
