package main

import (
	"net"
	"sync/atomic"
	"time"
)

// limiter makes each connection of a listener as slow as a far registry's.
type limiter struct {
	perSecond atomic.Int64
	connect   atomic.Int64 // nanoseconds
}

func (l *limiter) set(bytesPerSecond int, connect time.Duration) {
	l.perSecond.Store(int64(bytesPerSecond))
	l.connect.Store(int64(connect))
}

// listen limits what in accepts.
func (l *limiter) listen(in net.Listener) net.Listener { return limited{in, l} }

type limited struct {
	net.Listener

	l *limiter
}

// Accept gives a slow connection.
func (s limited) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.l.slow(c), nil
}

// slow is c as if it had just been made from far away.
func (l *limiter) slow(c net.Conn) *slowConn {
	return &slowConn{Conn: c, l: l, made: time.Now().Add(time.Duration(l.connect.Load()))}
}

// slowConn sends in steps, each when its time has come.
type slowConn struct {
	net.Conn

	l    *limiter
	made time.Time // when the other side would have its connection, and its first byte be here
	next time.Time // when the next byte may leave
}

// Read reads what could have arrived.
func (c *slowConn) Read(p []byte) (int, error) {
	if early := time.Until(c.made); early > 0 {
		time.Sleep(early)
	}
	return c.Conn.Read(p)
}

// step is how much goes at once: 1 ms at 60 MB/s.
const step = 64 << 10

// Write sends p at the pace of the limiter. A connection that was quiet has
// saved nothing up.
func (c *slowConn) Write(p []byte) (total int, err error) {
	for len(p) > 0 {
		part := p
		if rate := c.l.perSecond.Load(); rate > 0 {
			part = p[:min(len(p), step)]
			c.wait(len(part), rate)
		}
		n, err := c.Conn.Write(part)
		total += n
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

func (c *slowConn) wait(n int, rate int64) {
	now := time.Now()
	if c.next.Before(now.Add(-20 * time.Millisecond)) { // late by more than a timer's slack
		c.next = now
	}
	time.Sleep(c.next.Sub(now))
	c.next = c.next.Add(time.Duration(int64(n) * int64(time.Second) / rate))
}
