// Published data without a server: only the store, and libpmix's value types.
#include "node-agent/pod/podinit/publish.h"

#include <gmock/gmock.h>
#include <pmix.h>

#include <functional>
#include <map>

#include "node-agent/pod/podinit/pmix_values.h"

namespace fermata::pod {
namespace {

pmix_proc_t process(pmix_rank_t rank) {
  pmix_proc_t process;
  PMIX_LOAD_PROCID(&process, "1.0", rank);
  return process;
}

struct Reply {
  int calls = 0;
  pmix_status_t status = PMIX_SUCCESS;
  std::map<std::string, std::string> found;
};

void on_reply(pmix_status_t status, pmix_pdata_t data[], size_t count, void* reply_data) {
  auto* reply = static_cast<Reply*>(reply_data);
  ++reply->calls;
  reply->status = status;
  for (size_t i = 0; i < count; ++i) {
    reply->found[data[i].key] =
        std::string(data[i].value.data.string) + "@" + std::to_string(data[i].proc.rank);
  }
}

class PublishTest : public ::testing::Test {
 protected:
  pmix_status_t publish(pmix_rank_t rank, const std::string& key, const std::string& value,
                        const std::function<void(InfoList&)>& more = {}) {
    InfoList infos;
    infos.add(key.c_str(), value);
    if (more) more(infos);
    return publisher_.publish(process(rank), {infos.data(), infos.size()});
  }

  void lookup(Reply& reply, pmix_rank_t rank, std::vector<std::string> keys,
              const std::function<void(InfoList&)>& more = {}) {
    std::vector<char*> names;
    for (std::string& key : keys) names.push_back(key.data());
    names.push_back(nullptr);
    InfoList infos;
    if (more) more(infos);
    publisher_.lookup(process(rank), names.data(), {infos.data(), infos.size()}, on_reply, &reply);
  }

  Publisher publisher_{[](const std::function<void()>& answer) { answer(); }};
};

void add_persistence(InfoList& infos, pmix_persistence_t persistence) {
  pmix_value_t value;
  PMIX_VALUE_CONSTRUCT(&value);
  value.type = PMIX_PERSIST;
  value.data.persist = persistence;
  infos.add_value(PMIX_PERSISTENCE, value);
}

TEST_F(PublishTest, Lookup_FindsWhatAnotherRankPublished) {
  EXPECT_EQ(publish(0, "port", "here"), PMIX_SUCCESS);
  Reply reply;
  lookup(reply, 1, {"port"});
  EXPECT_EQ(reply.calls, 1);
  EXPECT_EQ(reply.status, PMIX_SUCCESS);
  EXPECT_EQ(reply.found["port"], "here@0");
}

TEST_F(PublishTest, Lookup_SaysWhatIsMissing) {
  publish(0, "a", "1");
  Reply some;
  lookup(some, 1, {"a", "b"});
  EXPECT_EQ(some.status, PMIX_ERR_PARTIAL_SUCCESS);
  EXPECT_EQ(some.found.size(), 1U);
  Reply none;
  lookup(none, 1, {"b"});
  EXPECT_EQ(none.status, PMIX_ERR_NOT_FOUND);
}

TEST_F(PublishTest, Publish_IsRefused_WhenTheKeyIsTaken) {
  EXPECT_EQ(publish(0, "a", "1"), PMIX_SUCCESS);
  EXPECT_EQ(publish(1, "a", "2"), PMIX_ERR_DUPLICATE_KEY);
  Reply reply;
  lookup(reply, 2, {"a"});
  EXPECT_EQ(reply.found["a"], "1@0");
}

TEST_F(PublishTest, Lookup_WaitsUntilAllIsPublished) {
  Reply reply;
  lookup(reply, 1, {"a", "b"}, [](InfoList& infos) { infos.add_u32(PMIX_WAIT, 0); });
  EXPECT_EQ(reply.calls, 0);
  publish(0, "a", "1");
  EXPECT_EQ(reply.calls, 0);
  publish(2, "b", "2");
  EXPECT_EQ(reply.calls, 1);
  EXPECT_EQ(reply.status, PMIX_SUCCESS);
  EXPECT_EQ(reply.found["b"], "2@2");
}

TEST_F(PublishTest, Lookup_EndsAtItsTimeout) {
  Reply reply;
  EXPECT_FALSE(publisher_.next_deadline());
  lookup(reply, 1, {"a"}, [](InfoList& infos) {
    infos.add_u32(PMIX_WAIT, 1);
    infos.add_u32(PMIX_TIMEOUT, 5);
  });
  ASSERT_TRUE(publisher_.next_deadline());
  const auto deadline = *publisher_.next_deadline();
  publisher_.expire(deadline - std::chrono::milliseconds(1));
  EXPECT_EQ(reply.calls, 0);
  publisher_.expire(deadline);
  EXPECT_EQ(reply.calls, 1);
  EXPECT_EQ(reply.status, PMIX_ERR_TIMEOUT);
  EXPECT_FALSE(publisher_.next_deadline());
}

TEST_F(PublishTest, Data_IsReadOnce_WhenPublishedSo) {
  publish(0, "once", "1", [](InfoList& infos) { add_persistence(infos, PMIX_PERSIST_FIRST_READ); });
  Reply first;
  lookup(first, 1, {"once"});
  EXPECT_EQ(first.found["once"], "1@0");
  Reply second;
  lookup(second, 1, {"once"});
  EXPECT_EQ(second.status, PMIX_ERR_NOT_FOUND);
}

TEST_F(PublishTest, Data_GoesWithItsProcess_WhenPublishedSo) {
  publish(0, "mine", "1", [](InfoList& infos) { add_persistence(infos, PMIX_PERSIST_PROC); });
  publish(0, "ours", "2");
  publisher_.process_ended(process(1));
  Reply before;
  lookup(before, 1, {"mine", "ours"});
  EXPECT_EQ(before.status, PMIX_SUCCESS);
  publisher_.process_ended(process(0));
  Reply after;
  lookup(after, 1, {"mine", "ours"});
  EXPECT_EQ(after.status, PMIX_ERR_PARTIAL_SUCCESS);
  EXPECT_EQ(after.found["ours"], "2@0");
}

TEST_F(PublishTest, Unpublish_RemovesOnlyOnesOwn) {
  publish(0, "a", "1");
  publish(1, "b", "2");
  char a[] = "a";
  char* keys[] = {a, nullptr};
  EXPECT_EQ(publisher_.unpublish(process(1), keys), PMIX_ERR_NOT_FOUND);
  EXPECT_EQ(publisher_.unpublish(process(0), keys), PMIX_SUCCESS);
  EXPECT_EQ(publisher_.unpublish(process(0), nullptr), PMIX_SUCCESS);
  Reply reply;
  lookup(reply, 2, {"a", "b"});
  EXPECT_EQ(reply.status, PMIX_ERR_PARTIAL_SUCCESS);
  EXPECT_EQ(reply.found["b"], "2@1");
}

TEST_F(PublishTest, Data_IsHidden_WhenForTheProcessAlone) {
  publish(0, "own", "1", [](InfoList& infos) {
    pmix_value_t value;
    PMIX_VALUE_CONSTRUCT(&value);
    value.type = PMIX_DATA_RANGE;
    value.data.range = PMIX_RANGE_PROC_LOCAL;
    infos.add_value(PMIX_RANGE, value);
  });
  Reply other;
  lookup(other, 1, {"own"});
  EXPECT_EQ(other.status, PMIX_ERR_NOT_FOUND);
  Reply own;
  lookup(own, 0, {"own"});
  EXPECT_EQ(own.found["own"], "1@0");
}

}  // namespace
}  // namespace fermata::pod
