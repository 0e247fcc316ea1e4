package erstatsd_test

import (
	"io"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"weir.dev/ratelimit/erservice"
	"weir.dev/ratelimit/erstatsd"
)

func TestNamesAndCounts(t *testing.T) {
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			received := make(chan string, 16)
			address := listen(t, network, received)
			sink := erstatsd.New(erstatsd.Options{Network: network, Address: address, Every: time.Hour, Tags: map[string]string{"zone": "a b"}, Logger: slog.New(slog.DiscardHandler)})
			sink.Limited("shop.user_x", 3, erservice.Outcome{Near: 2})
			sink.Limited("shop.user_x", 1, erservice.Outcome{Over: true, Shadow: true, Remembered: true})
			sink.Limited("shop.a:b|c\nd", 1, erservice.Outcome{})
			sink.UnknownDomain("no.where")
			sink.Failed(true)
			sink.Loaded(true)
			sink.ShadowedAll()
			sink.Flush(t.Context())
			text := ""
			for !strings.Contains(text, "domain_not_found") || !strings.Contains(text, "within_limit") {
				select {
				case more := <-received:
					text += more
				case <-time.After(time.Minute):
					require.FailNow(t, "too little came", text)
				}
			}
			for _, want := range []string{
				"ratelimit.service.rate_limit.shop.user_x.total_hits.__zone=a_b:4|c\n", "ratelimit.service.rate_limit.shop.user_x.near_limit.__zone=a_b:2|c\n",
				"ratelimit.service.rate_limit.shop.user_x.over_limit.__zone=a_b:1|c\n", "ratelimit.service.rate_limit.shop.user_x.over_limit_with_local_cache.__zone=a_b:1|c\n",
				"ratelimit.service.rate_limit.shop.user_x.shadow_mode.__zone=a_b:1|c\n", "ratelimit.service.rate_limit.shop.a_b_c_d.total_hits.__zone=a_b:1|c\n",
				"ratelimit.service.rate_limit.domain_not_found.no_where.__zone=a_b:1|c\n", "ratelimit.service.call.should_rate_limit.redis_error.__zone=a_b:1|c\n",
				"ratelimit.service.config_load_success.__zone=a_b:1|c\n", "ratelimit.service.global_shadow_mode.__zone=a_b:1|c\n",
			} {
				require.Contains(t, text, want)
			}
		})
	}
}

// As DogStatsD has them, by the mogrifiers of envoyproxy/ratelimit's README.
func TestDogStatsD(t *testing.T) {
	received := make(chan string, 16)
	sink := erstatsd.New(erstatsd.Options{
		Network: "udp", Address: listen(t, "udp", received), Every: time.Hour, Tags: map[string]string{"zone": "a,b", "app": "x"},
		Logger: slog.New(slog.DiscardHandler), Dog: true,
		Mogrifiers: []erstatsd.Mogrifier{
			{
				Pattern: regexp.MustCompile(`^ratelimit\.service\.rate_limit\.domain_not_found\.(.*)$`), Name: "ratelimit.service.domain_not_found",
				Tags: []erstatsd.Tag{{Name: "domain", Value: "$1"}, {Name: "odd", Value: "$7"}},
			},
			{
				Pattern: regexp.MustCompile(`^ratelimit\.service\.rate_limit\.([^.]+)\.(.*)\.([^.]+)$`), Name: "ratelimit.service.rate_limit.$3",
				Tags: []erstatsd.Tag{{Name: "domain", Value: "$1"}, {Name: "descriptor", Value: "$2"}},
			},
		},
	})
	sink.Limited("shop.user_x,y", 3, erservice.Outcome{})
	sink.UnknownDomain("no.where")
	sink.Loaded(true)
	sink.Flush(t.Context())
	text := ""
	for strings.Count(text, "\n") < 4 {
		select {
		case more := <-received:
			text += more
		case <-time.After(time.Minute):
			require.FailNow(t, "too little came", text)
		}
	}
	require.Equal(t, `ratelimit.service.config_load_success:1|c|#app:x,zone:a_b
ratelimit.service.domain_not_found:1|c|#app:x,zone:a_b,domain:no_where,odd:$7
ratelimit.service.rate_limit.total_hits:3|c|#app:x,zone:a_b,domain:shop,descriptor:user_x_y
ratelimit.service.rate_limit.within_limit:3|c|#app:x,zone:a_b,domain:shop,descriptor:user_x_y
`, text)
}

func listen(t *testing.T, network string, received chan<- string) string {
	if network == "udp" {
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		go func() {
			buffer := make([]byte, 2048)
			for {
				n, _, err := conn.ReadFrom(buffer)
				if err != nil {
					return
				}
				received <- string(buffer[:n])
			}
		}()
		return conn.LocalAddr().String()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		raw, _ := io.ReadAll(conn)
		received <- string(raw)
	}()
	return listener.Addr().String()
}

// What cannot be sent is sent later, and counted once.
func TestNothingIsLostWhileItIsAway(t *testing.T) {
	var log strings.Builder
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	sink := erstatsd.New(erstatsd.Options{Network: "tcp", Address: address, Every: time.Hour, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		sink.Limited("d.k", 1, erservice.Outcome{})
		sink.Flush(t.Context())
	}
	require.Equal(t, 1, strings.Count(log.String(), "cannot be sent"))
	received := make(chan string, 1)
	listener, err = net.Listen("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		raw, _ := io.ReadAll(conn)
		received <- string(raw)
	}()
	sink.Flush(t.Context())
	require.Contains(t, <-received, "ratelimit.service.rate_limit.d.k.total_hits:3|c")
}
