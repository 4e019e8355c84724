//! Words of stable memory, where they lie: by the extension's loads and stores, or by the System API's copies.

#[link(wasm_import_module = "ic0_ext")]
unsafe extern "C" {
    fn stable64_load_i64(address: u64) -> u64;
    fn stable64_load_i32(address: u64) -> u32;
    fn stable64_load16_u_i32(address: u64) -> u32;
    fn stable64_store_i64(address: u64, value: u64);
}

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    fn stable64_size() -> u64;
    fn stable64_grow(pages: u64) -> u64;
    fn stable64_read(to: u64, from: u64, size: u64);
    fn stable64_write(to: u64, from: u64, size: u64);
}

/// How the words of stable memory are reached.
pub trait Words {
    fn word(address: u64) -> u64;
    fn set(address: u64, value: u64);
    fn half(address: u64) -> u32;
    fn quarter(address: u64) -> u32;
}

/// One instruction of Wasm each.
pub struct Direct;

impl Words for Direct {
    fn word(address: u64) -> u64 {
        unsafe { stable64_load_i64(address) }
    }
    fn set(address: u64, value: u64) {
        unsafe { stable64_store_i64(address, value) }
    }
    fn half(address: u64) -> u32 {
        unsafe { stable64_load_i32(address) }
    }
    fn quarter(address: u64) -> u32 {
        unsafe { stable64_load16_u_i32(address) }
    }
}

/// A copy to the heap, or from there, each.
pub struct Copied;

impl Words for Copied {
    fn word(address: u64) -> u64 {
        let mut bytes = [0; 8];
        read(address, &mut bytes);
        u64::from_le_bytes(bytes)
    }
    fn set(address: u64, value: u64) {
        write(address, &value.to_le_bytes());
    }
    fn half(address: u64) -> u32 {
        let mut bytes = [0; 4];
        read(address, &mut bytes);
        u32::from_le_bytes(bytes)
    }
    fn quarter(address: u64) -> u32 {
        let mut bytes = [0; 2];
        read(address, &mut bytes);
        u16::from_le_bytes(bytes).into()
    }
}

pub fn read(address: u64, to: &mut [u8]) {
    unsafe { stable64_read(to.as_mut_ptr() as u64, address, to.len() as u64) }
}

pub fn write(address: u64, bytes: &[u8]) {
    unsafe { stable64_write(address, bytes.as_ptr() as u64, bytes.len() as u64) }
}

/// Wasm pages of stable memory.
pub fn size() -> u64 {
    unsafe { stable64_size() }
}

/// Grow stable memory to so many bytes at least.
pub fn reserve(bytes: u64) {
    let (wanted, there) = (bytes.div_ceil(65_536), size());
    if there < wanted {
        assert_ne!(unsafe { stable64_grow(wanted - there) }, u64::MAX, "no stable memory of {bytes} bytes");
    }
}
