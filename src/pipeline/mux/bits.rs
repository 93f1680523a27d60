//! Reading single bits, most significant first, from bytes that may end anywhere.

/// A position in a bitstream. Every read is `None` past the end.
#[derive(Clone, Debug)]
pub(in crate::pipeline) struct Bits<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Bits<'a> {
    pub(in crate::pipeline) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// The next bit.
    pub(in crate::pipeline) fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.position / 8)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(bit == 1)
    }

    /// The next `count` bits (at most 32) as a number.
    pub(in crate::pipeline) fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    /// The next `count` bits (at most 8) as a small number.
    pub(in crate::pipeline) fn small(&mut self, count: u32) -> Option<u8> {
        u8::try_from(self.read(count)?).ok()
    }

    /// Passes over `count` bits.
    pub(in crate::pipeline) fn skip(&mut self, count: u32) -> Option<()> {
        self.position += count as usize;
        (self.position <= self.bytes.len() * 8).then_some(())
    }

    /// A number with as many zeros in front as it has further bits: `uvlc()` of AV1 (section 4.10.3), `ue(v)` of H.264
    /// (section 9.1). One of more than 32 bits is the greatest there is.
    pub(in crate::pipeline) fn uvlc(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        if zeros >= 32 {
            return Some(u32::MAX);
        }
        Some((1 << zeros) - 1 + self.read(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_to_the_end_and_not_further() {
        let mut bits = Bits::new(&[0b1010_0000, 0xff]);
        assert_eq!(bits.flag(), Some(true));
        assert_eq!(bits.read(3), Some(0b010));
        assert_eq!(bits.skip(4), Some(()));
        assert_eq!(bits.small(8), Some(0xff));
        assert_eq!(bits.flag(), None);
        assert_eq!(bits.skip(1), None);
    }

    #[test]
    fn uvlc_of_nothing_but_zeros_ends() {
        assert_eq!(Bits::new(&[0; 8]).uvlc(), None);
        let mut bits = Bits::new(&[0b0010_1100]);
        assert_eq!(bits.uvlc(), Some(4));
        assert_eq!(bits.read(3), Some(0b100));
    }
}
