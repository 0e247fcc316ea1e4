package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"
)

// pollEvery is how often a log that is followed is looked at.
const pollEvery = 200 * time.Millisecond

// ReadOptions say which records are read.
type ReadOptions struct {
	// From is the number of the first one; older ones are skipped.
	From int64
	// Follow waits for more at the end, until the context is done.
	Follow bool
}

// Read hands out a log's records in order, without verifying it, until each
// returns an error, which Read returns. The record is valid during the call.
func Read(ctx context.Context, dir string, options ReadOptions, each func(seq int64, record []byte) error) error {
	next := options.From
	for {
		all, err := segments(dir)
		if err != nil {
			return err
		}
		for i, s := range all {
			if i+1 < len(all) && all[i+1].first <= next {
				continue
			}
			if next, err = readSegment(ctx, s, next, each); err != nil {
				return err
			}
		}
		if !options.Follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pollEvery):
		}
	}
}

func readSegment(ctx context.Context, s segment, next int64, each func(int64, []byte) error) (int64, error) {
	file, err := os.Open(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return next, nil // retention was faster
	}
	if err != nil {
		return next, err
	}
	defer file.Close() //nolint:errcheck // read only
	reader := bufio.NewReaderSize(file, maxLineBytes)
	for {
		line, err := reader.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return next, nil // also an unfinished line
		}
		if err != nil {
			return next, err
		}
		if !bytes.HasPrefix(line, []byte(recordPrefix)) {
			continue
		}
		record, err := parseRecord(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil || record.seq < next {
			continue // Verify says what is wrong.
		}
		if err := ctx.Err(); err != nil {
			return next, nil
		}
		if err := each(record.seq, record.record); err != nil {
			return next, err
		}
		next = record.seq + 1
	}
}

// Last is the number that the next record will have, as far as can be read.
func Last(ctx context.Context, dir string) (size int64, err error) {
	all, err := segments(dir)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	size = all[len(all)-1].first
	next, err := readSegment(ctx, all[len(all)-1], size, func(int64, []byte) error { return nil })
	return max(size, next), err
}
