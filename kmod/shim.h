/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Kernel interfaces that Rust cannot reach by itself: inline functions and
 * macros, wrapped in shim.c as weft_*(), and constants as WEFT_*.
 *
 * bindgen reads this file (options in shim.bindgen).
 */
#ifndef WEFT_SHIM_H
#define WEFT_SHIM_H

/* First: see rust/bindings/bindings_helper.h of the kernel. */
#include <linux/hrtimer_types.h>

#include <crypto/sha2.h>
#include <linux/anon_inodes.h>
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/capability.h>
#include <linux/crc32c.h>
#include <linux/cred.h>
#include <linux/eventpoll.h>
#include <linux/mm.h>
#include <linux/net.h>
#include <linux/sched/mm.h>
#include <linux/wait_bit.h>
#include <net/genetlink.h>
#include <net/sock.h>

/* Memory */

static const gfp_t WEFT_GFP_NOIO = GFP_NOIO;

static const unsigned int WEFT_PF_MEMALLOC = PF_MEMALLOC;
static const unsigned int WEFT_PF_MEMALLOC_NOIO = PF_MEMALLOC_NOIO;

/* Sets a flag of the current task; returns what weft_memalloc_end() needs. */
unsigned int weft_memalloc_begin(unsigned int flag);
void weft_memalloc_end(unsigned int flags);
/* Whether somebody else holds a reference to the page as well. */
bool weft_page_is_shared(struct page *page);
void weft_put_page(struct page *page);
void *weft_page_address(struct page *page);

static const size_t WEFT_SHA256_BYTES = SHA256_DIGEST_SIZE;

/* Of so many bytes that the pages hold from their start. */
void weft_sha256_pages(struct page *const *pages, size_t bytes, u8 *digest);
bool weft_pages_are_zero(struct page *const *pages, size_t bytes);

/* Tasks */

/* The task that runs, to be compared; 0 in an interrupt. */
unsigned long weft_running_task(void);

/* Block devices */

static const blk_opf_t WEFT_REQ_OP_MASK = REQ_OP_MASK;
static const blk_opf_t WEFT_REQ_PREFLUSH = REQ_PREFLUSH;
static const blk_opf_t WEFT_REQ_FUA = REQ_FUA;
static const blk_opf_t WEFT_REQ_SYNC = REQ_SYNC;
static const blk_opf_t WEFT_REQ_IDLE = REQ_IDLE;
static const blk_opf_t WEFT_REQ_NOUNMAP = REQ_NOUNMAP;
static const blk_opf_t WEFT_REQ_NOWAIT = REQ_NOWAIT;
static const blk_mode_t WEFT_OPEN_READ = BLK_OPEN_READ;
static const blk_mode_t WEFT_OPEN_WRITE = BLK_OPEN_WRITE;
static const blk_mode_t WEFT_OPEN_NDELAY = BLK_OPEN_NDELAY;
static const blk_features_t WEFT_FEATURES = BLK_FEAT_WRITE_CACHE |
	BLK_FEAT_FUA | BLK_FEAT_STABLE_WRITES | BLK_FEAT_IO_STAT;

/* Sleeps until the counter is 0; whoever takes it there calls weft_wake_waiter(). */
void weft_wait_for_zero(int *counter);
void weft_wake_waiter(int *counter);
/* Between the data of a bio and pages that hold as many bytes from their start. */
void weft_bio_copy_out(struct bio *from, struct page *const *to);
void weft_bio_copy_in(struct bio *to, struct page *const *from);
void weft_bio_end_io_acct(struct bio *bio, unsigned long start);
/* Freezes the queue while the limits change. */
int weft_set_queue_limits(struct gendisk *disk, struct queue_limits *limits);
sector_t weft_bdev_sectors(struct block_device *bdev);
unsigned int weft_bdev_logical_block_bytes(struct block_device *bdev);
unsigned int weft_bdev_discard_sectors(struct block_device *bdev);
unsigned int weft_bdev_write_zeroes_sectors(struct block_device *bdev);
bool weft_bdev_nowait(struct block_device *bdev);
bool weft_bdev_is_zoned(struct block_device *bdev);

/* Files: what they are ready for */

static const __poll_t WEFT_EPOLLIN = EPOLLIN;
static const __poll_t WEFT_EPOLLOUT = EPOLLOUT;
static const __poll_t WEFT_EPOLLHUP = EPOLLHUP;

/* Sockets */

/*
 * The TCP socket behind a descriptor of the current process, for
 * weft_socket_put(), or an error as a pointer.
 */
struct socket *weft_socket_get(int descriptor);
void weft_socket_put(struct socket *socket);
/* Neither waits; both return a number of bytes or an error. */
int weft_socket_send(struct socket *socket, struct bio_vec *pieces,
		     unsigned int count, size_t bytes, bool more);
int weft_socket_receive(struct socket *socket, struct kvec *places,
			unsigned int count, size_t bytes);

/* Capabilities */

static const int WEFT_CAP_NET_ADMIN = CAP_NET_ADMIN;
static const int WEFT_CAP_SYS_ADMIN = CAP_SYS_ADMIN;

/* Generic netlink */

void *weft_nla_data(const struct nlattr *attribute);
int weft_nla_len(const struct nlattr *attribute);
struct sk_buff *weft_genlmsg_new(size_t payload, gfp_t flags);
void weft_genlmsg_end(struct sk_buff *skb, void *header);
void weft_genlmsg_cancel(struct sk_buff *skb, void *header);
int weft_genlmsg_unicast(struct net *net, struct sk_buff *skb, u32 portid);
void weft_kfree_skb(struct sk_buff *skb);
const struct genl_info *weft_genl_info_dump(struct netlink_callback *callback);
/* Counted; for weft_put_net(). */
struct net *weft_genl_get_net(const struct genl_info *info);
void weft_put_net(struct net *net);

#endif /* WEFT_SHIM_H */
