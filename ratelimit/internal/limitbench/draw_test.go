package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestThePictureIsXMLThatNamesAllAndIsToScale(t *testing.T) {
	picture := draw([]bar{{"`a` & <b>", 30, 10}, {"c", 20, 0}}, 16, "0.4 of a")
	for decoder := xml.NewDecoder(strings.NewReader(picture)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
	}
	require.Contains(t, picture, "a &amp; &lt;b&gt;")
	require.Contains(t, picture, `width="315.0"`, "30 of 40 µs")
	require.Contains(t, picture, `width="105.0"`, "10")
	require.Contains(t, picture, `width="210.0"`, "20")
	require.Contains(t, picture, `x1="488.0"`, "the mark at 16 µs")
	require.NotContains(t, draw(nil, 0, "nothing"), "<line")
}

func TestTheClockOfAProcessCountsItsWork(t *testing.T) {
	before, err := cpu(os.Getpid())
	require.NoError(t, err)
	for after := before; after < before+0.05; { // it goes on only by work
		after, err = cpu(os.Getpid())
		require.NoError(t, err)
	}
	twice, err := cpu(os.Getpid(), os.Getpid())
	require.NoError(t, err)
	require.Greater(t, twice, 2*before)
	_, err = cpu(1 << 25) // above what pids reach
	require.ErrorContains(t, err, "process 33554432")
}
