// Orders numbers by their bits, since a driver needn't know a NaN or the smallest numbers: the larger number has the larger key,
// equal ones have the same, and a NaN has the smallest.

fn key(bits: u32) -> u32 {
    let size = bits & 0x7fffffffu;
    if (size > 0x7f800000u) {
        return 0u;
    }
    // Zero is zero, whatever its sign.
    return select(0x80000000u + size, 0x80000000u - size, bits != size);
}
