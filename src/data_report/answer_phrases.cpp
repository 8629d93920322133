#include "answer_phrases.h"

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "folded_text.h"

namespace qlora::data_report {
namespace {

/// A refusal says so at once; later the same words are mostly a quotation.
constexpr std::size_t kRefusalBegins = 160;

// In the form that fold gives.
constexpr std::string_view kRefusals[] = {
    "i'm sorry, but i can't",
    "i'm sorry, but i cannot",
    "i'm sorry, i can't",
    "i'm sorry, i cannot",
    "i am sorry, but i can",
    "i'm sorry, but i'm not able",
    "i'm sorry, but i am not able",
    "i'm sorry, but i'm unable",
    "i'm sorry, but as an ai",
    "i apologize, but i can",
    "i can't assist with",
    "i cannot assist with",
    "i can't help with",
    "i cannot help with",
    "i can't help you with",
    "i cannot help you with",
    "i can't fulfill",
    "i cannot fulfill",
    "i can't comply",
    "i cannot comply",
    "i can't provide",
    "i cannot provide",
    "i won't be able to",
    "i'm unable to",
    "i am unable to",
    "i'm not able to",
    "i am not able to",
    "i must decline",
    "i have to decline",
    "it is not appropriate for me to",
    "it's not appropriate for me to",
    "i can't answer",
    "i cannot answer",
    "i can't create",
    "i cannot create",
    "i can't generate",
    "i cannot generate",
    "i do not have access to",
    "i don't have access to",
    "i can't engage in",
    "i cannot engage in",
    "i can't discuss",
    "i cannot discuss",
    // Korean
    "죄송하지만",
    "죄송합니다만",
    "죄송합니다. 저는",
    "죄송합니다, 저는",
    "도와드릴 수 없",
    "도와 드릴 수 없",
    "도움을 드릴 수 없",
    "답변드릴 수 없",
    "답변할 수 없",
    "답변해 드릴 수 없",
    "제공할 수 없",
    "제공해 드릴 수 없",
    "응할 수 없",
    // Chinese
    "很抱歉，我无法",
    "很抱歉，我不能",
    "抱歉，我无法",
    "抱歉，我不能",
    "对不起，我无法",
    "对不起，我不能",
    "我无法提供",
    "我无法协助",
    "我无法回答",
    "我不能提供",
    "我不能协助",
    "很抱歉，我無法",
    "抱歉，我無法",
    "對不起，我無法",
    // Japanese
    "申し訳ありませんが",
    "申し訳ございませんが",
    "お答えできません",
    "お手伝いできません",
    "お応えできません",
    "提供することはできません",
    // German
    "es tut mir leid, aber ich kann",
    "tut mir leid, aber ich kann",
    "es tut mir leid, ich kann",
    "dabei kann ich nicht helfen",
    "ich kann dir dabei nicht helfen",
    "ich kann ihnen dabei nicht helfen",
    "ich bin nicht in der lage",
    // French
    "je suis désolé, mais je ne peux",
    "je suis désolée, mais je ne peux",
    "désolé, mais je ne peux",
    "je ne peux pas vous aider",
    "je ne peux pas t'aider",
    "je ne suis pas en mesure",
    "je ne peux pas fournir",
    // Spanish
    "lo siento, pero no puedo",
    "lo siento, no puedo",
    "no puedo ayudarte con",
    "no puedo ayudarle con",
    "no puedo proporcionar",
    "no soy capaz de",
    // Portuguese
    "desculpe, mas não posso",
    "desculpe, não posso",
    "sinto muito, mas não posso",
    "lamento, mas não posso",
    "não posso ajudar com",
    "não posso fornecer",
    // Italian
    "mi dispiace, ma non posso",
    "mi dispiace, non posso",
    "non posso aiutarti con",
    "non posso fornire",
    // Russian
    "извините, но я не могу",
    "извините, я не могу",
    "к сожалению, я не могу",
    "простите, но я не могу",
    "я не могу помочь",
    "я не могу предоставить",
};

constexpr std::string_view kBoilerplate[] = {
    "as an ai language model",
    "as a large language model",
    "as an ai assistant",
    "as an ai model",
    "i am an ai language model",
    "i'm an ai language model",
    "i am just an ai",
    "i'm just an ai",
    "as an artificial intelligence",
    "my knowledge cutoff",
    "as of my last knowledge update",
    "as of my last update",
    "my training data",
    "trained by openai",
    "developed by openai",
    "i hope this helps",
    "hope this helps",
    "hope that helps",
    "let me know if you have any",
    "let me know if you need",
    "feel free to ask",
    "please let me know if",
    "is there anything else i can help",
    "is there anything else you",
    "i'd be happy to help",
    "i would be happy to help",
    "it's important to note that",
    "it is important to note that",
    // Korean
    "ai 언어 모델로서",
    "인공지능 언어 모델로서",
    "ai 모델로서",
    "ai 어시스턴트로서",
    "언어 모델이기 때문에",
    "도움이 되셨기를",
    "도움이 되었기를",
    "도움이 되길 바랍니다",
    "더 궁금한 점이 있으",
    "추가로 궁금한 점이 있으",
    "언제든지 물어보세요",
    "언제든지 질문해 주세요",
    // Chinese
    "作为一个人工智能",
    "作为人工智能",
    "作为一个ai",
    "作为ai语言模型",
    "作为一个语言模型",
    "希望对你有帮助",
    "希望对您有帮助",
    "希望这能帮到",
    "如果您有任何其他问题",
    "如果你有任何其他问题",
    "作為一個人工智慧",
    // Japanese
    "ai言語モデルとして",
    "aiとして",
    "大規模言語モデルとして",
    "お役に立てれば幸いです",
    "他にご質問がありましたら",
    "何か他にご質問",
    // German
    "als ki-sprachmodell",
    "als ki-modell",
    "als künstliche intelligenz",
    "ich hoffe, das hilft",
    "wenn du weitere fragen hast",
    "wenn sie weitere fragen haben",
    // French
    "en tant que modèle de langage",
    "en tant qu'ia",
    "en tant qu'intelligence artificielle",
    "j'espère que cela vous aide",
    "n'hésitez pas à me demander",
    "n'hésitez pas à demander",
    // Spanish
    "como modelo de lenguaje",
    "como una inteligencia artificial",
    "como inteligencia artificial",
    "espero que esto te ayude",
    "espero que esto ayude",
    "no dudes en preguntar",
    // Portuguese
    "como um modelo de linguagem",
    "como modelo de linguagem",
    "como uma inteligência artificial",
    "espero que isso ajude",
    "espero ter ajudado",
    // Italian
    "come modello linguistico",
    "come intelligenza artificiale",
    "spero che questo ti aiuti",
    "spero che questo sia utile",
    "non esitare a chiedere",
    // Russian
    "как языковая модель",
    "как искусственный интеллект",
    "надеюсь, это поможет",
    "не стесняйтесь спрашивать",
};

/// Finds any of many phrases in one pass over a text.
class Phrases {
  public:
    template <std::size_t N>
    explicit Phrases(const std::string_view (&spellings)[N]) {
        for (const std::string_view spelling : spellings) {
            std::u32string folded = fold(spelling);
            by_first_[folded.front()].emplace_back(std::move(folded), spelling);
        }
    }

    /// The first one in the text; a phrase of letters with blanks between begins at the beginning of a word.
    std::string_view find_in(std::u32string_view text) const {
        for (std::size_t i = 0; i < text.size(); ++i) {
            const bool is_inside =
                text[i] < 0x80 && i > 0 && is_word_character(text[i - 1]) && text[i - 1] < 0x80;
            if (is_inside) continue;
            const auto found = by_first_.find(text[i]);
            if (found == by_first_.end()) continue;
            for (const auto& [phrase, spelling] : found->second)
                if (text.substr(i, phrase.size()) == phrase) return spelling;
        }
        return {};
    }

  private:
    std::unordered_map<char32_t, std::vector<std::pair<std::u32string, std::string_view>>> by_first_;
};

}  // namespace

std::string_view refusal_in(std::u32string_view folded) {
    static const Phrases kPhrases(kRefusals);
    return kPhrases.find_in(folded.substr(0, kRefusalBegins));
}

std::string_view boilerplate_in(std::u32string_view folded) {
    static const Phrases kPhrases(kBoilerplate);
    return kPhrases.find_in(folded);
}

}  // namespace qlora::data_report
