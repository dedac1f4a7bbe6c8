//! Instructions of the kernel's filter machine, and jumps of any length.
//!
//! Classic BPF has one register, jumps forward only, and conditional jumps of at most 255 instructions. Programs here
//! are put together from pieces that end in a return each, so that pieces can be set one after the other in any order.
//! Source: linux/filter.h; Documentation/networking/filter.rst.

/// One instruction, packed as `code | jt << 16 | jf << 24 | k << 32`.
pub(crate) type Instruction = u64;

/// Offset of `nr` in `seccomp_data`.
pub(crate) const NUMBER: u32 = 0;
/// Offset of `arch`.
pub(crate) const ARCH: u32 = 4;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets of the lower and the upper half of an argument on a little-endian machine.
pub(crate) fn argument(index: u8) -> (u32, u32) {
    let low = 16 + 8 * u32::from(index);
    (low, low + 4)
}

/// Loads a word of `seccomp_data`.
pub(crate) fn load(offset: u32) -> Instruction {
    pack(LOAD, 0, 0, offset)
}

/// Keeps the bits of a mask.
pub(crate) fn and(mask: u32) -> Instruction {
    pack(AND, 0, 0, mask)
}

/// Ends with a decision.
pub(crate) fn ret(code: u32) -> Instruction {
    pack(RETURN, 0, 0, code)
}

/// What a conditional jump asks of the register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Equal(u32),
    Greater(u32),
    GreaterOrEqual(u32),
}

/// Jumps over `if_true` or `if_false` instructions.
pub(crate) fn jump(test: Test, if_true: u8, if_false: u8) -> Instruction {
    let (code, value) = match test {
        Test::Equal(value) => (JUMP_EQUAL, value),
        Test::Greater(value) => (JUMP_GREATER, value),
        Test::GreaterOrEqual(value) => (JUMP_GREATER_OR_EQUAL, value),
    };
    pack(code, if_true, if_false, value)
}

/// Runs `yes` if the test holds, else `no`; both end in returns. Whatever their length.
pub(crate) fn branch(test: Test, yes: Vec<Instruction>, no: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = match u8::try_from(no.len()) {
        Ok(length) => vec![jump(test, length, 0)],
        Err(_) => vec![jump(test, 0, 1), pack(JUMP, 0, 0, no.len() as u32)],
    };
    program.extend(no);
    program.extend(yes);
    program
}

fn pack(code: u16, if_true: u8, if_false: u8, value: u32) -> Instruction {
    u64::from(code) | u64::from(if_true) << 16 | u64::from(if_false) << 24 | u64::from(value) << 32
}

/// The kernel's machine, as far as programs here use it.
#[cfg(test)]
pub(crate) mod machine {
    use super::*;

    /// What a filter sees. Source: seccomp(2), `struct seccomp_data`.
    #[derive(Debug, Clone, Copy, Default)]
    pub(crate) struct Call {
        pub(crate) number: u32,
        pub(crate) arch: u32,
        pub(crate) args: [u64; 6],
    }

    /// The decision, and after how many instructions.
    pub(crate) fn run(program: &[Instruction], call: Call) -> (u32, usize) {
        let (mut at, mut register, mut steps) = (0, 0u32, 0);
        loop {
            let word = program[at];
            let (code, yes, no) = (word as u16, (word >> 16) as u8, (word >> 24) as u8);
            let value = (word >> 32) as u32;
            at += 1;
            steps += 1;
            let mut jump_if = |holds: bool| at += usize::from(if holds { yes } else { no });
            match code {
                LOAD => register = call.word(value),
                AND => register &= value,
                JUMP => at += value as usize,
                JUMP_EQUAL => jump_if(register == value),
                JUMP_GREATER => jump_if(register > value),
                JUMP_GREATER_OR_EQUAL => jump_if(register >= value),
                RETURN => return (value, steps),
                _ => panic!("instruction {code:#x} at {}", at - 1),
            }
        }
    }

    impl Call {
        fn word(&self, offset: u32) -> u32 {
            match offset {
                NUMBER => self.number,
                ARCH => self.arch,
                16..=60 if offset.is_multiple_of(4) => {
                    let argument = self.args[(offset as usize - 16) / 8];
                    if offset.is_multiple_of(8) { argument as u32 } else { (argument >> 32) as u32 }
                }
                _ => panic!("load from {offset}"),
            }
        }
    }
}
