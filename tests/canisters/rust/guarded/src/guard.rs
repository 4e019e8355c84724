use ic_stable_structures::Memory;

/// Traps where this version does not read what the one before has kept; else keeps what this one declares.
///
/// `guard` is what `perdure stable guard` wrote, `memory` one of its own. Call it first in init and in post_upgrade.
pub fn check(memory: &impl Memory, guard: &str) {
    let of = |mark: char| guard.lines().filter_map(move |line| line.strip_prefix(mark)).map(str::trim);
    let mut kept = Vec::new();
    if memory.size() > 0 {
        let mut head = [0; 8];
        memory.read(0, &mut head);
        assert!(head.starts_with(b"PSG\x01"), "schema: this memory has something else in it");
        kept.resize(u32::from_le_bytes(head[4..].try_into().unwrap()) as usize, 0);
        memory.read(8, &mut kept);
    }
    for old in std::str::from_utf8(&kept).expect("a kept schema is UTF-8").lines() {
        let label = old.split(' ').next();
        let new = of('=').find(|line| line.split(' ').next() == label).unwrap_or("nothing");
        assert!(of('=').chain(of('~')).any(|line| line == old), "schema: {old} became {new}");
    }
    let text = of('=').collect::<Vec<_>>().join("\n");
    let size = (text.len() as u64 + 8).div_ceil(65_536);
    assert!(memory.size() >= size || memory.grow(size - memory.size()) >= 0, "schema: no stable memory left");
    memory.write(0, &[b"PSG\x01".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat());
}
