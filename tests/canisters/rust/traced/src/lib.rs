//! Panics below generic functions and closures, in a module that keeps its debug sections: for backtraces with lines.
//! Lines of this file stand in tests/embedder/test_lines.py.
#![no_std]

use core::fmt::{self, Write};

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    fn msg_arg_data_copy(destination: *mut u8, offset: usize, size: usize);
    fn msg_reply_data_append(source: *const u8, size: usize);
    fn msg_reply();
    fn trap(message: *const u8, size: usize) -> !;
}

struct Text {
    bytes: [u8; 200],
    size: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().take(self.bytes.len() - self.size) {
            self.bytes[self.size] = byte;
            self.size += 1;
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let mut text = Text { bytes: [0; 200], size: 0 };
    let _ = write!(text, "Panicked at '{}'", info.message());
    unsafe { trap(text.bytes.as_ptr(), text.size) }
}

trait Step {
    fn step(&self, left: u8) -> u8;
}

struct Down<T>(T);

impl<T: Copy + Into<u32>> Step for Down<T> {
    #[inline(never)]
    fn step(&self, left: u8) -> u8 {
        if left == 0 {
            panic!("nothing is left of {}", self.0.into());
        }
        left - 1
    }
}

#[inline(never)]
fn apply(step: &dyn Step, left: u8) -> u8 {
    step.step(left)
}

#[unsafe(export_name = "canister_update take")]
pub extern "C" fn take() {
    let mut left = [0u8];
    unsafe { msg_arg_data_copy(left.as_mut_ptr(), 0, 1) };
    let found = [apply(&Down(7u8), left[0])];
    unsafe {
        msg_reply_data_append(found.as_ptr(), 1);
        msg_reply();
    }
}
