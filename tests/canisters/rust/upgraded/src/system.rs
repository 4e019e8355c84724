//! What the canister needs of the system, and as much of Candid as its methods take: without a CDK the module is small.

#[link(wasm_import_module = "ic0")]
unsafe extern "C" {
    fn msg_arg_data_size() -> usize;
    fn msg_arg_data_copy(to: usize, offset: usize, size: usize);
    fn msg_reply_data_append(from: usize, size: usize);
    fn msg_reply();
    fn trap(from: usize, size: usize) -> !;
    #[link_name = "time"]
    fn ic0_time() -> u64;
    fn global_timer_set(time: u64) -> u64;
    fn certified_data_set(from: usize, size: usize);
    fn call_new(callee: usize, callee_size: usize, name: usize, name_size: usize, reply: usize, reply_env: usize, reject: usize, reject_env: usize);
    fn call_perform() -> u32;
}

/// Panics trap with their message.
pub fn begin() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        unsafe { trap(text.as_ptr() as usize, text.len()) }
    }));
}

pub fn time() -> u64 {
    unsafe { ic0_time() }
}

pub fn set_timer(seconds: u64) {
    unsafe { global_timer_set(time() + seconds * 1_000_000_000) };
}

pub fn certify(data: &[u8]) {
    unsafe { certified_data_set(data.as_ptr() as usize, data.len()) }
}

pub fn call_management(name: &str) {
    unsafe {
        call_new(0, 0, name.as_ptr() as usize, name.len(), 0, 0, 0, 0);
        call_perform();
    }
}

/// The values of an argument, of the types that are asked for: `nat64` and `text`.
pub struct Arguments {
    bytes: Vec<u8>,
    types: std::vec::IntoIter<u8>,
    at: usize,
}

impl Arguments {
    pub fn new() -> Self {
        let mut bytes = vec![0; unsafe { msg_arg_data_size() }];
        unsafe { msg_arg_data_copy(bytes.as_mut_ptr() as usize, 0, bytes.len()) };
        assert!(bytes.starts_with(b"DIDL\0"), "the argument is no Candid message");
        let count = bytes[5] as usize;
        let types = bytes[6..6 + count].to_vec().into_iter();
        Arguments { bytes, types, at: 6 + count }
    }

    fn expect(&mut self, wanted: u8) {
        let found = self.types.next().expect("no more values in the argument");
        assert_eq!(found, wanted, "an argument of another type");
    }

    fn take(&mut self, size: usize) -> &[u8] {
        self.at += size;
        &self.bytes[self.at - size..self.at]
    }

    pub fn number(&mut self) -> u64 {
        self.expect(0x78);
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }

    pub fn text(&mut self) -> String {
        self.expect(0x71);
        let size = self.take(1)[0] as usize;
        String::from_utf8(self.take(size).to_vec()).expect("UTF-8")
    }
}

/// A value that can be replied with.
pub trait Reply {
    /// The bytes of its type, after the number of types in the table and the table itself.
    fn head(table: &mut Vec<u8>) -> u8;
    fn write(&self, out: &mut Vec<u8>);

    fn send(&self) {
        let (mut table, mut out) = (Vec::new(), b"DIDL".to_vec());
        let code = Self::head(&mut table);
        out.push(if table.is_empty() { 0 } else { 1 });
        out.extend_from_slice(&table);
        if code == 0x7f {
            out.push(0);
        } else {
            out.extend_from_slice(&[1, code]);
        }
        self.write(&mut out);
        unsafe {
            msg_reply_data_append(out.as_ptr() as usize, out.len());
            msg_reply();
        }
    }
}

impl Reply for () {
    fn head(_: &mut Vec<u8>) -> u8 {
        0x7f
    }
    fn write(&self, _: &mut Vec<u8>) {}
}

impl Reply for u64 {
    fn head(_: &mut Vec<u8>) -> u8 {
        0x78
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_le_bytes());
    }
}

impl Reply for String {
    fn head(_: &mut Vec<u8>) -> u8 {
        0x71
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.len() as u8);
        out.extend_from_slice(self.as_bytes());
    }
}

impl<T: Reply> Reply for Option<T> {
    fn head(table: &mut Vec<u8>) -> u8 {
        let mut none = Vec::new();
        let inner = T::head(&mut none);
        table.extend_from_slice(&[0x6e, inner]);
        0
    }
    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.is_some() as u8);
        if let Some(value) = self {
            value.write(out);
        }
    }
}
