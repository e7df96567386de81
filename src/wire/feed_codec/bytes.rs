//! Numbers as bytes: fixed ones little-endian, all others in groups of 7 bits, the lowest first (LEB128).

/// Bytes that are being written.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn fixed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// Writes how far `to` is from `from`, on either side.
    pub(super) fn step(&mut self, from: u64, to: u64) {
        let step = to.wrapping_sub(from).cast_signed();
        self.number(((step << 1) ^ (step >> 63)).cast_unsigned());
    }

    pub(super) fn option(&mut self, number: Option<u64>) {
        match number {
            None => self.fixed(&[0]),
            Some(number) => {
                self.fixed(&[1]);
                self.number(number);
            }
        }
    }
}

/// Bytes that are being read. Each call takes from the front; `None` if the bytes are not what it reads.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn fixed<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(super) fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.fixed()?;
            let bits = u64::from(byte & 0x7F);
            // Of the tenth group only one bit fits.
            if (bits << shift) >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    pub(super) fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    pub(super) fn step(&mut self, from: u64) -> Option<u64> {
        let number = self.number()?;
        let step = (number >> 1) ^ (number & 1).wrapping_neg();
        Some(from.wrapping_add(step))
    }

    pub(super) fn option(&mut self) -> Option<Option<u64>> {
        match self.fixed()? {
            [0] => Some(None),
            [1] => self.number().map(Some),
            _ => None,
        }
    }

    /// Reads `count` items, each of which has at least `bytes` bytes.
    pub(super) fn items<T>(
        &mut self,
        bytes: usize,
        mut item: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = usize::try_from(self.number()?).ok()?;
        // Nobody may make us reserve more than a few times what was sent.
        let mut items = Vec::with_capacity(count.min(self.0.len() / bytes));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Some(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_steps_round_trip() {
        let numbers = [0, 1, 127, 128, 16_383, 16_384, u64::MAX / 2, u64::MAX - 1, u64::MAX];
        for from in numbers {
            for to in numbers {
                let mut bytes = Writer::default();
                bytes.number(from);
                bytes.step(from, to);
                bytes.option(Some(to));
                bytes.option(None);
                let mut reader = Reader(&bytes.0);
                assert_eq!((reader.number(), reader.step(from)), (Some(from), Some(to)));
                assert_eq!((reader.option(), reader.option()), (Some(Some(to)), Some(None)));
                assert!(reader.0.is_empty());
            }
        }
    }

    #[test]
    fn a_number_beyond_64_bits_is_none() {
        let mut bytes = [0xFF; 10];
        bytes[9] = 1;
        assert_eq!(Reader(&bytes).number(), Some(u64::MAX));
        bytes[9] = 2;
        assert_eq!(Reader(&bytes).number(), None);
        assert_eq!(Reader(&[0xFF; 11]).number(), None);
        assert_eq!(Reader(&[0x80]).number(), None, "it ends too early");
        assert_eq!(Reader(&[0x80, 0x80, 0x80, 0x80, 0x10]).small(), None, "more than 32 bits");
    }
}
