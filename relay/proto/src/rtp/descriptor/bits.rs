//! Numbers of any width within bytes, the highest bit first.

/// Reads numbers one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    /// Begins at a bit of `bytes`.
    pub(super) const fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// How many bits were read, and those before.
    pub(super) const fn position(&self) -> usize {
        self.at
    }

    /// A number of up to 16 bits: `f(n)` of the specification.
    pub(super) fn read(&mut self, bits: u8) -> Option<u16> {
        let end = self.at.checked_add(usize::from(bits))?;
        if bits > 16 || end > self.bytes.len().checked_mul(8)? {
            return None;
        }
        let mut word = 0_u32;
        for offset in 0..3 {
            let byte = (self.at / 8).checked_add(offset)?;
            word = word << 8 | u32::from(self.bytes.get(byte).copied().unwrap_or(0));
        }
        // 24 bits, of which at most 7 + 16 are looked at.
        let behind = 24_usize.checked_sub(self.at % 8)?.checked_sub(usize::from(bits))?;
        self.at = end;
        let mask = (1_u32 << bits) - 1;
        u16::try_from(word >> behind & mask).ok()
    }

    /// One bit.
    pub(super) fn flag(&mut self) -> Option<bool> {
        Some(self.read(1)? == 1)
    }

    /// A number of up to 8 bits.
    pub(super) fn byte(&mut self, bits: u8) -> Option<u8> {
        u8::try_from(self.read(bits)?).ok()
    }

    /// A number below `limit`: `ns(n)` of the specification, which spends no more bits than it needs.
    pub(super) fn below(&mut self, limit: u8) -> Option<u8> {
        let width = u8::try_from(limit.checked_ilog2()?).ok()?;
        // How many of the numbers do with a bit less.
        let short = (1_u16 << width << 1).checked_sub(u16::from(limit))?;
        let number = self.read(width)?;
        if number < short {
            return u8::try_from(number).ok();
        }
        let number = (number << 1 | self.read(1)?).checked_sub(short)?;
        u8::try_from(number).ok()
    }
}

/// Writes numbers one after the other. What does not fit is left out, and noticed at the end.
#[derive(Debug)]
pub(super) struct BitsWriter<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> BitsWriter<'a> {
    /// Begins at the first bit of `out`, which is overwritten.
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        out.fill(0);
        Self { out, at: 0 }
    }

    /// The lowest `bits` bits of a number.
    pub(super) fn write(&mut self, number: u32, bits: u8) {
        for bit in (0..bits).rev() {
            if let Some(byte) = self.out.get_mut(self.at / 8) {
                *byte |= u8::from(number >> bit & 1 == 1) << (7 - self.at % 8);
            }
            self.at += 1;
        }
    }

    /// One bit.
    pub(super) fn flag(&mut self, flag: bool) {
        self.write(u32::from(flag), 1);
    }

    /// A number below `limit`, see [`Bits::below`].
    pub(super) fn below(&mut self, number: u8, limit: u8) {
        let width = u8::try_from(limit.max(1).ilog2()).unwrap_or(0);
        let short = (1_u32 << width << 1) - u32::from(limit);
        let number = u32::from(number);
        if number < short {
            self.write(number, width);
        } else {
            self.write(number + short, width + 1);
        }
    }

    /// Bytes written, of which the last may have bits left. `None` when they did not all fit.
    pub(super) fn finish(self) -> Option<usize> {
        let len = self.at.div_ceil(8);
        (len <= self.out.len()).then_some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_across_bytes_and_not_beyond_the_end() {
        let mut bits = Bits::new(&[0b1010_0101, 0b1111_0000, 0b1000_0001], 1);
        assert_eq!(bits.read(3), Some(0b010));
        assert_eq!(bits.read(0), Some(0));
        assert_eq!(bits.read(16), Some(0b0101_1111_0000_1000));
        assert_eq!(bits.read(5), None, "four are left");
        assert_eq!(bits.read(4), Some(1));
        assert_eq!((bits.position(), bits.flag()), (24, None));
        assert_eq!(Bits::new(&[0; 8], 0).read(17), None);
    }

    #[test]
    fn numbers_below_a_limit_are_read_as_they_were_written() {
        for limit in 1..=33 {
            let mut out = [0; 64];
            let mut writer = BitsWriter::new(&mut out);
            (0..limit).for_each(|number| writer.below(number, limit));
            let len = writer.finish().unwrap();
            let mut bits = Bits::new(&out[..len], 0);
            for number in 0..limit {
                assert_eq!(bits.below(limit), Some(number), "below {limit}");
            }
        }
        assert_eq!(Bits::new(&[0xff; 8], 0).below(0), None);
    }

    #[test]
    fn what_does_not_fit_is_noticed() {
        let mut out = [0; 1];
        let mut writer = BitsWriter::new(&mut out);
        writer.write(0x1ff, 9);
        assert_eq!(writer.finish(), None);
    }
}
