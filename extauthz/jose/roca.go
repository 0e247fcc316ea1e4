package jose

import "math/big"

// rocaPrimes are the small primes by which keys of one vendor's library are
// recognised.
func rocaPrimes() [38]uint64 {
	return [...]uint64{
		3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73,
		79, 83, 89, 97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
	}
}

// weakPrimes reports whether a modulus is of primes that were made as powers of
// 65537 modulo a product of small primes, and so can be factored (CVE-2017-15361,
// "The Return of Coppersmith's Attack"). A sound key is mistaken for one with a
// chance of 2 to the power of -28.
func weakPrimes(modulus *big.Int) bool {
	var divisor, rest big.Int
	for _, prime := range rocaPrimes() {
		residue := rest.Mod(modulus, divisor.SetUint64(prime)).Uint64()
		if !isPowerOf65537(residue, prime) {
			return false
		}
	}
	return true
}

func isPowerOf65537(residue, prime uint64) bool {
	generator := 65537 % prime
	for power, i := uint64(1), uint64(0); i < prime; i++ {
		if power == residue {
			return true
		}
		power = power * generator % prime
	}
	return false
}
