// Package seal makes what nodes share unreadable, and unnameable, to whoever has
// not the key: names of objects, and the sealed parts that lie under them.
//
// Everything here is a function of its arguments; doc/fleet.json holds test
// vectors, so that another program can read what this one wrote. enc(x) is x after
// its length, four bytes big-endian; everything is SHA-256.
//
//	scope     HKDF(key, salt "berth fleet 1", info, 64 bytes): 32 bytes to name with,
//	          32 to seal with. info is "public", or
//	          "private" enc(origin) enc(user) enc(secret)
//	name      hex of the first 16 bytes of HMAC(naming key, enc(origin) enc(kind) enc(digest))
//	part      0x01, 12 random bytes, AES-256-GCM with the key
//	          HKDF(sealing key, no salt, info "writing" writing, 32 bytes) and the additional data
//	          0x01 name writing part size; the name is in hex, the writing is its
//	          16 bytes, part is four bytes big-endian, size is
//	          the whole object's, eight. A record about the object has part 0xffffffff
//	object    v1/<prefix>/<name>/<writing in hex>/<part number>; the prefix is, in hex, the
//	          sum of the name's first byte and the part number, modulo 256. A record lies
//	          in no bucket, but in the coordinator
package seal
