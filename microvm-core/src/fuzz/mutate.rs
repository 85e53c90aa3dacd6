//! Inputs made from inputs.

/// Numbers at which arithmetic turns.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0xfff,
    0x1000,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX - 15,
    u64::MAX,
];

/// The longest that an input grows.
const LONGEST: usize = 16 << 10;

/// xorshift64*, which is good enough for this (Vigna, "An experimental exploration of Marsaglia's xorshift generators").
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    /// One of these, changed in a few places.
    pub(super) fn mutated(&mut self, pool: &[Vec<u8>]) -> Vec<u8> {
        let mut input = pool[self.below(pool.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut input, pool);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
        let length = input.len();
        let at = self.below(length);
        let piece = (1 + self.below(32)).min(length - at.min(length));
        match self.below(8) {
            0 if length > 0 => input[at] ^= 1 << self.below(8),
            1 if length > 0 => input[at] = self.next() as u8,
            2 => {
                let width = 1 << self.below(4);
                let edge = EDGES[self.below(EDGES.len())];
                let bytes = edge
                    .wrapping_add(self.below(3) as u64)
                    .wrapping_sub(1)
                    .to_le_bytes();
                input
                    .iter_mut()
                    .skip(at)
                    .zip(bytes)
                    .take(width)
                    .for_each(|(to, from)| *to = from);
            }
            3 => drop(input.drain(at..at + piece)),
            4 => {
                let copy = input[at..at + piece].to_vec();
                let to = self.below(length + 1);
                input.splice(to..to, copy);
            }
            5 => {
                let fresh: Vec<u8> = (0..1 + self.below(8)).map(|_| self.next() as u8).collect();
                input.splice(at..at, fresh);
            }
            6 => {
                let other = &pool[self.below(pool.len())];
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from.min(other.len())..]);
            }
            _ => input.truncate(at),
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_inputs_and_another_gives_others() {
    let pool = [b"some bytes to begin with".to_vec(), Vec::new()];
    let inputs = |seed| {
        let mut random = Random::new(seed);
        (0..1000).map(|_| random.mutated(&pool)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(3), inputs(3));
    assert_ne!(inputs(3), inputs(5));
    assert!(inputs(7).iter().all(|input| input.len() <= LONGEST));
}
