package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"lukechampine.com/blake3/guts"
)

// Every file has its own key, derived from the namespace's key and the file's
// random ID. Within a file the nonce is a counter. So no nonce repeats, however
// many files a namespace has and however often a generation is written anew.
const (
	segmentKeyInfo  = "lifeboat segment v2"
	manifestKeyInfo = "lifeboat manifest v2"
	hashKeyInfo     = "lifeboat chunk hash v1"
	keyCheckInfo    = "lifeboat key check v1"

	sealOverhead = 16 // bytes that AES-GCM adds
)

func derive(namespaceKey [32]byte, salt []byte, info string, size int) []byte {
	key, err := hkdf.Key(sha256.New, namespaceKey[:], salt, info, size)
	if err != nil {
		panic(fmt.Sprintf("derive %s: %v", info, err)) // only for sizes that no caller asks for
	}
	return key
}

// newFileCipher returns the cipher of one file.
func newFileCipher(namespaceKey [32]byte, id fileID, info string) cipher.AEAD {
	block, err := aes.NewCipher(derive(namespaceKey, id[:], info, 32))
	if err != nil {
		panic(err) // a 32-byte key is always accepted
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the block size that GCM needs
	}
	return aead
}

// keyCheck tells keys apart without giving them away, so that a wrong key can
// be told from a damaged file.
func keyCheck(namespaceKey [32]byte) (check [8]byte) {
	copy(check[:], derive(namespaceKey, nil, keyCheckInfo, len(check)))
	return check
}

func nonce(index uint64) (n [12]byte) {
	binary.BigEndian.PutUint64(n[4:], index)
	return n
}

// chunkIdentity is the associated data of chunk number index of the segment
// that a generation of a pod wrote. A chunk that was moved elsewhere does not open.
func chunkIdentity(buf []byte, key Key, generation int64, index uint64) []byte {
	buf = appendIdentity(buf, key)
	buf = binary.BigEndian.AppendUint64(buf, uint64(generation))
	return binary.BigEndian.AppendUint64(buf, index)
}

func appendIdentity(buf []byte, key Key) []byte {
	for _, s := range []string{key.Namespace, key.PodUID} {
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(s)))
		buf = append(buf, s...)
	}
	return buf
}

// chunkHash is the keyed BLAKE3 of a chunk's content, cut to 128 bits: whoever
// lacks the key cannot look for two contents with one hash, and by chance none
// have, so more would only lengthen every manifest.
type chunkHash [16]byte

// hasher computes keyed BLAKE3 without allocation and without the goroutines
// that the package's own Hasher starts for each write. The key is the
// namespace's: the same secret in two namespaces has two hashes.
type hasher struct {
	key     [8]uint32
	scratch [hashLeaf]byte
}

// hashLeaf is what the vector code hashes at once.
const hashLeaf = guts.MaxSIMD * guts.ChunkSize

func newHasher(namespaceKey [32]byte) *hasher {
	h := &hasher{}
	raw := derive(namespaceKey, nil, hashKeyInfo, 32)
	for i := range h.key {
		h.key[i] = binary.LittleEndian.Uint32(raw[i*4:])
	}
	return h
}

func (h *hasher) sum(data []byte) chunkHash {
	root := h.node(data, 0)
	root.Flags |= guts.FlagRoot
	out := guts.WordsToBytes(guts.CompressNode(root))
	return chunkHash(out[:16])
}

// node returns the root of BLAKE3's tree over data, which starts at the given
// 1 KiB piece of the whole: the left branch is the largest power of two of
// pieces that leaves something for the right one.
func (h *hasher) node(data []byte, counter uint64) guts.Node {
	if len(data) <= hashLeaf {
		if cap(data) < hashLeaf { // the vector code looks at a whole leaf
			data = h.scratch[:copy(h.scratch[:], data)]
		}
		return guts.CompressBuffer((*[hashLeaf]byte)(data[:hashLeaf]), len(data), &h.key, counter, guts.FlagKeyedHash)
	}
	left := hashLeaf
	for left*2 < len(data) {
		left *= 2
	}
	return guts.ParentNode(
		guts.ChainingValue(h.node(data[:left:left], counter)),
		guts.ChainingValue(h.node(data[left:], counter+uint64(left/guts.ChunkSize))),
		&h.key, guts.FlagKeyedHash)
}
