//! The built-in guest: its image, and the ABI it shares with the VMM.
