package livekeys

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	keysv1 "weir.dev/api/gen/weir/keys/v1"
	"weir.dev/extauthz"
	"weir.dev/extauthz/apikey"
	"weir.dev/kit/atomicfile"
)

type issued = extauthz.IssuedKey

// The file is a line that says what it is, and records: the length of what
// follows (4 bytes, big-endian) and the CRC-32 of those 4 bytes, so that a damaged
// length can't pass for a record that was cut short; the time in microseconds (8
// bytes), a WatchApiKeysResponse, and the SHA-256 of all of the record before it and of
// the record before that one: none can be changed, moved or left out of the
// middle unnoticed. A record that ends too soon is a write that was cut short,
// and was never in effect.
const (
	fileMagic   = "weir issued api keys 1\n"
	fileBatch   = 1000
	maxRecord   = 16 << 20
	recordClock = 8
	headBytes   = 8
	// appendLimit is how much a file grows beyond its snapshot before it is
	// written anew.
	appendLimit = 4 << 20
)

// errDamaged says that a file is not what was written.
var errDamaged = errors.New("the file is damaged")

// file is the keys on disk. Not safe for concurrent use.
type file struct {
	path string
	// chain is the digest of the last record.
	chain [sha256.Size]byte
	// size is of the whole file; zero makes the next write a whole one.
	size, appended int64
	// behind says that the last write failed.
	behind bool
}

// openFile reads a file record by record; a missing one is empty.
func openFile(path string, take func(*keysv1.WatchApiKeysResponse, time.Time) error) (*file, error) {
	f := &file{path: path}
	opened, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	defer opened.Close() //nolint:errcheck // only read
	in := bufio.NewReaderSize(opened, 1<<20)
	magic := make([]byte, len(fileMagic))
	if _, err := io.ReadFull(in, magic); err != nil || string(magic) != fileMagic {
		return nil, fmt.Errorf("%w: %s is not a file of issued keys", errDamaged, path)
	}
	f.size = int64(len(fileMagic))
	for {
		batch, at, length, err := f.read(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, io.ErrUnexpectedEOF) { // a write that was cut short
			return f, os.Truncate(path, f.size)
		}
		if err == nil {
			err = take(batch, at)
		}
		if err != nil {
			return nil, fmt.Errorf("%w at byte %d: %w", errDamaged, f.size, err)
		}
		f.size += length
	}
	return f, nil
}

func (f *file) read(in io.Reader) (batch *keysv1.WatchApiKeysResponse, at time.Time, length int64, err error) {
	var head [headBytes]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return nil, at, 0, err
	}
	size := binary.BigEndian.Uint32(head[:])
	if crc32.ChecksumIEEE(head[:4]) != binary.BigEndian.Uint32(head[4:]) {
		return nil, at, 0, errors.New("a record's length is wrong")
	}
	if size < recordClock+sha256.Size || size > maxRecord {
		return nil, at, 0, fmt.Errorf("a record of %d bytes", size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(in, body); err != nil {
		return nil, at, 0, io.ErrUnexpectedEOF
	}
	payload, sum := body[:len(body)-sha256.Size], body[len(body)-sha256.Size:]
	chain := f.link(head[:], payload)
	if !bytes.Equal(chain[:], sum) {
		return nil, at, 0, errors.New("a record's digest is wrong")
	}
	f.chain = chain
	batch = &keysv1.WatchApiKeysResponse{}
	if err := proto.Unmarshal(payload[recordClock:], batch); err != nil {
		return nil, at, 0, err
	}
	at = time.UnixMicro(int64(binary.BigEndian.Uint64(payload))) //nolint:gosec // written from an int64
	return batch, at, int64(len(head)) + int64(size), nil
}

// link is the digest of a record.
func (f *file) link(head, payload []byte) (sum [sha256.Size]byte) {
	digest := sha256.New()
	digest.Write(f.chain[:])
	digest.Write(head)
	digest.Write(payload)
	digest.Sum(sum[:0])
	return sum
}

// record makes one record and moves the chain.
func (f *file) record(batch *keysv1.WatchApiKeysResponse, at time.Time) ([]byte, error) {
	raw, err := proto.Marshal(batch)
	if err != nil {
		return nil, err
	}
	size := recordClock + len(raw) + sha256.Size
	if size > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes is too long", size)
	}
	out := make([]byte, 4, headBytes+size)
	binary.BigEndian.PutUint32(out, uint32(size))
	out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(out[:4]))
	out = binary.BigEndian.AppendUint64(out, uint64(at.UnixMicro())) //nolint:gosec // read back as an int64
	out = append(out, raw...)
	f.chain = f.link(out[:headBytes], out[headBytes:])
	return append(out, f.chain[:]...), nil
}

// full reports whether to write the whole file anew rather than to go on.
func (f *file) full() bool { return f.size == 0 || f.appended > max(appendLimit, f.size/2) }

// append adds one record, on disk when it returns.
func (f *file) append(batch *keysv1.WatchApiKeysResponse, at time.Time) error {
	before := f.chain
	record, err := f.record(batch, at)
	if err != nil {
		return err
	}
	if err := f.write(record); err != nil {
		f.chain = before
		return err
	}
	f.size, f.appended = f.size+int64(len(record)), f.appended+int64(len(record))
	return nil
}

func (f *file) write(record []byte) error {
	opened, err := os.OpenFile(f.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = opened.WriteAt(record, f.size)
	if err == nil {
		err = opened.Sync()
	}
	return errors.Join(err, opened.Close())
}

// rewrite replaces the file.
func (f *file) rewrite(batches []*keysv1.WatchApiKeysResponse, at time.Time) error {
	fresh := file{path: f.path}
	content := []byte(fileMagic)
	for _, batch := range batches {
		record, err := fresh.record(batch, at)
		if err != nil {
			return err
		}
		content = append(content, record...)
	}
	if err := atomicfile.Write(f.path, content, 0o600); err != nil {
		return err
	}
	f.chain, f.size, f.appended = fresh.chain, int64(len(content)), 0
	return nil
}

// snapshot is a whole table as the batches of a reset.
func snapshot(at *keysv1.WatchApiKeysResponse, t *table) []*keysv1.WatchApiKeysResponse {
	position := func() *keysv1.WatchApiKeysResponse {
		return &keysv1.WatchApiKeysResponse{Epoch: at.GetEpoch(), Version: at.GetVersion(), More: true}
	}
	batches := []*keysv1.WatchApiKeysResponse{position()}
	batches[0].Reset_ = true
	t.all(func(digest apikey.Digest, key *issued) bool {
		last := batches[len(batches)-1]
		if len(last.Keys) == fileBatch {
			last = position()
			batches = append(batches, last)
		}
		entry := &keysv1.KeyEntry{
			Id: key.ID, Sha256: bytes.Clone(digest[:]), Tenant: key.Tenant, Consumer: key.Consumer, Scopes: key.Scopes, Revoked: key.Revoked,
		}
		if !key.Expires.IsZero() {
			entry.ExpireTime = timestamppb.New(key.Expires)
		}
		last.Keys = append(last.Keys, entry)
		return true
	})
	batches[len(batches)-1].More = false
	return batches
}
